"""SDXL with rectified flow: told from its files, drawn as in diffusers, taught, and exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusionXLPipeline

from studio import models
from studio.bench.families import drawing_scheduler, make_pipeline, write_checkpoint
from studio.engine import sampling
from studio.engine.estimators import NoisedPictures, StepsGivenEnd, velocity_errors
from studio.engine.trajectory import PairBatch
from studio.lora.export import export_lora
from studio.lora.metadata import ExportInfo
from studio.models import Denoiser, ModelError
from studio.models.networks import added_cond_kwargs
from studio.models.parts import folder_scheduler
from studio.settings import OBJECTIVES, SamplingSettings
from tests.support.rounds import expect_to_learn

SETTINGS = SamplingSettings(
    steps=3, width_px=64, height_px=64, guidance=3.0, eta=0.0, negative_prompt="blurry"
)

PROMPT = "a red apple"
SCHEDULER = Path("scheduler/scheduler_config.json")


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    return make_pipeline("sdxl_rf")


@pytest.fixture(scope="module")
def folder(pipeline: StableDiffusionXLPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a folder of diffusers, and beside it as a single file."""
    folder = tmp_path_factory.mktemp("flow") / "folder"
    pipeline.save_pretrained(folder)
    write_checkpoint(folder.with_name("a rectified model.safetensors"), pipeline, "sdxl_rf")
    pipeline.scheduler = drawing_scheduler(pipeline.scheduler)
    return folder


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return folder.with_name("a rectified model.safetensors")


@pytest.fixture
def denoiser(folder: Path) -> Denoiser:
    return models.load(str(folder), "cpu")


def in_diffusers(pipeline: StableDiffusionXLPipeline, start: torch.Tensor) -> torch.Tensor:
    return pipeline(
        PROMPT,
        negative_prompt=SETTINGS.negative_prompt,
        num_inference_steps=SETTINGS.steps,
        guidance_scale=SETTINGS.guidance,
        latents=start,
        width=SETTINGS.width_px,
        height=SETTINGS.height_px,
        output_type="latent",
    ).images


# --- drawing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "file"])
def test_without_noise_it_is_diffusers_own_pipeline(
    form: str, pipeline: StableDiffusionXLPipeline, request: pytest.FixtureRequest
) -> None:
    denoiser = models.load(str(request.getfixturevalue(form)), "cpu")
    assert denoiser.info.words == "Stable Diffusion XL, rectified flow"
    (chain,) = sampling.sample(denoiser, [PROMPT], [3], SETTINGS)
    expected = in_diffusers(pipeline, chain.latents[:1])
    torch.testing.assert_close(chain.latents[-1:], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(chain.latents[-1], chain.latents[0], atol=0.1)


# --- learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["diffusion_dpo", "d3po"])
def test_a_round_teaches_it(objective: str, denoiser: Denoiser) -> None:
    expect_to_learn(denoiser, PROMPT, replace(SETTINGS, eta=0.7), objective)


def test_errors_are_of_the_velocity_itself(denoiser: Denoiser) -> None:
    pairs = PairBatch.of(sampling.sample_pairs(denoiser, [PROMPT], [1], SETTINGS))
    estimator = NoisedPictures(denoiser, pairs, OBJECTIVES["diffusion_dpo"])
    timesteps, noise = estimator.inputs([[0]], torch.tensor([[0, 1]]))
    timesteps[0, 1] = 1000  # pure noise, where the velocity tells nothing of the noise
    with torch.no_grad():
        [errors] = velocity_errors(denoiser, pairs, [0], timesteps, noise)
        final = pairs.latents[[0, 0], -1]
        sigma = (timesteps[0] / 1000)[:, None, None, None]
        noisy = (1 - sigma) * final + sigma * noise[0]
        text = denoiser.text.embed([PROMPT] * 2)
        velocity = denoiser.network(
            noisy,
            timesteps[0],
            text.states,
            added_cond_kwargs=added_cond_kwargs(noisy, text, 8, torch.float32),
        ).sample
    expected = (noise[0] - final - velocity).square().mean((1, 2, 3))
    torch.testing.assert_close(errors, expected, rtol=1e-4, atol=1e-5)


def test_a_step_given_its_end_has_the_velocitys_error_at_the_chains_own_latent(
    denoiser: Denoiser,
) -> None:
    """Times the weight of the step, from pure noise on."""
    settings = replace(SETTINGS, eta=0.7)
    pairs = PairBatch.of(sampling.sample_pairs(denoiser, [PROMPT], [1], settings))
    training = replace(OBJECTIVES["diffusion_dpo"], loss="d3po_given_end", timestep_fraction=1.0)
    estimator = StepsGivenEnd(denoiser, pairs, training)
    steps = torch.tensor([[0, 1]])
    sigma = (pairs.timesteps[steps] / 1000)[..., None, None, None]
    assert sigma[0, 0] == 1
    noise = (pairs.latents[:1, :2] - (1 - sigma) * pairs.latents[:1, -1:]) / sigma
    with torch.no_grad():
        scores = estimator.scores([0], steps)
        errors = velocity_errors(denoiser, pairs, [0], pairs.timesteps[steps], noise)
    step = denoiser.schedule(SETTINGS).step(steps, 0.7)
    torch.testing.assert_close(
        scores, -errors * step.of_prediction.abs() / step.s, rtol=1e-3, atol=1e-5
    )


def test_the_exported_lora_draws_the_same_in_diffusers(
    denoiser: Denoiser, pipeline: StableDiffusionXLPipeline, tmp_path: Path
) -> None:
    denoiser.adapters.new(replace(OBJECTIVES["diffusion_dpo"], rank=4, alpha=2.0))
    torch.manual_seed(1)
    for parameter in denoiser.adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    (tuned,) = sampling.sample(denoiser, [PROMPT], [1], SETTINGS)
    info = ExportInfo("sdxl_rf", "some model", 3, 0.0, prediction_type="flow_prediction")
    layers = denoiser.adapters.layer_shapes
    state = denoiser.adapters.state()
    export_lora(tmp_path, "mine", state, 4, 2.0, info, precision="float32", layers=layers)
    base = in_diffusers(pipeline, tuned.latents[:1])
    pipeline.load_lora_weights(str(tmp_path), weight_name="mine.safetensors")
    try:
        found = in_diffusers(pipeline, tuned.latents[:1])
    finally:
        pipeline.unload_lora_weights()
    gained = (tuned.latents[-1:] - base).norm()
    assert gained > 0.1
    assert (found - tuned.latents[-1:]).norm() / gained < 1e-3


# --- how it is told from its files ---------------------------------------------------------------


def folder_with(folder: Path, to: Path, **changes: Any) -> str:
    """The configurations of the folder without its weights, and with another scheduler."""
    for path in folder.rglob("*.json"):
        copy = to / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    config = json.loads((folder / SCHEDULER).read_text()) | changes
    config = {key: value for key, value in config.items() if value is not None}
    (to / SCHEDULER).write_text(json.dumps(config))
    return str(to)


UNIPC = {  # as diffusers' other schedulers tell it
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 2.5,
    "shift": None,
}


@pytest.mark.parametrize(
    ("changes", "shift"),
    [({"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 6}, 6.0), (UNIPC, 2.5)],
)
def test_a_folder_tells_it_by_its_scheduler(
    changes: dict[str, Any], shift: float, folder: Path, tmp_path: Path
) -> None:
    info = models.inspect(folder_with(folder, tmp_path, **changes), has_weights=False)
    assert (info.family, info.prediction_type) == ("sdxl", "flow_prediction")
    scheduler = folder_scheduler(info, json.loads((tmp_path / SCHEDULER).read_text()))
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    assert scheduler.shift == shift


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_dynamic_shifting": True}, "see use_dynamic_shifting in its scheduler's"),
        ({"invert_sigmas": True}, "see invert_sigmas"),
        ({"shift": "much"}, "configuration of the model in .* is damaged"),
        ({"shift": 0.0}, "damaged"),
        ({"shift": float("nan")}, "damaged"),
        ({"num_train_timesteps": 0}, "damaged"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_a_sentence(
    changes: dict[str, Any], words: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=words):
        models.inspect(folder_with(folder, tmp_path, **changes), has_weights=False)


def test_a_file_that_only_its_name_tells_has_a_note(file: Path) -> None:
    info = models.inspect(str(file))
    assert info.prediction_type == "flow_prediction"
    assert "By its name it is a rectified flow" in info.note
