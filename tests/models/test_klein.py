"""FLUX.2 klein: told from its folder, drawn as in diffusers, and taught."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline

from studio import models
from studio.bench.flux2 import make_pipeline
from studio.engine import sampling
from studio.engine.estimators import velocity_errors
from studio.engine.training import Training
from studio.engine.trajectory import PairBatch
from studio.families import FAMILIES
from studio.models import Denoiser, ModelError
from studio.settings import OBJECTIVES, SamplingSettings
from tests.support.rounds import expect_to_learn

SETTINGS = SamplingSettings(steps=3, width_px=64, height_px=96, guidance=3.0, eta=0.0)
PROMPT = "a red apple"


@pytest.fixture(scope="module")
def pipeline(klein_folder: Path) -> Flux2KleinPipeline:
    pipeline = Flux2KleinPipeline.from_pretrained(klein_folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def denoiser(klein_folder: Path) -> Denoiser:
    return models.load(str(klein_folder), "cpu")


def in_diffusers(
    pipeline: Flux2KleinPipeline, start: torch.Tensor, settings: SamplingSettings, output: str
) -> Any:
    """What diffusers' own pipeline draws from the same starting noise."""
    return pipeline(
        prompt=PROMPT,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        latents=start,
        width=settings.width_px,
        height=settings.height_px,
        output_type=output,
    ).images


def unnormalised(denoiser: Denoiser, latents: torch.Tensor) -> torch.Tensor:
    """As the pipeline gives them: of the VAE's own channels and scale."""
    seen = []
    first = denoiser.vae.post_quant_conv
    handle = first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    denoiser.decode(latents)
    handle.remove()
    return seen[0]


# --- drawing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{}, {"guidance": 1.0}, {"steps": 1}],
    ids=["guided", "plain", "one step"],
)
def test_without_noise_it_is_diffusers_own_pipeline(
    changes: dict[str, Any], denoiser: Denoiser, pipeline: Flux2KleinPipeline
) -> None:
    settings = replace(SETTINGS, **changes)
    assert denoiser.info.words == "FLUX.2 klein base 4B"
    (chain,) = sampling.sample(denoiser, [PROMPT], [3], settings)
    expected = in_diffusers(pipeline, chain.latents[:1], settings, "latent")
    found = unnormalised(denoiser, chain.latents[-1:])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(chain.latents[-1], chain.latents[0], atol=0.1)


def test_its_pictures_are_those_of_diffusers(
    denoiser: Denoiser, pipeline: Flux2KleinPipeline
) -> None:
    chains = sampling.sample(denoiser, [PROMPT], [3], SETTINGS)
    [picture] = sampling.images(denoiser, chains)
    [expected] = in_diffusers(pipeline, chains[0].latents[:1], SETTINGS, "pil")
    assert picture.size == (64, 96)
    one, other = (np.asarray(each).astype(int) for each in (picture, expected))
    assert np.abs(one - other).max() <= 1
    assert one.std() > 1


def test_pictures_become_the_latents_that_diffusers_makes_of_them(
    denoiser: Denoiser, pipeline: Flux2KleinPipeline
) -> None:
    [picture] = sampling.images(denoiser, sampling.sample(denoiser, [PROMPT], [3], SETTINGS))
    pixels = pipeline.image_processor.preprocess(picture, height=96, width=64, resize_mode="crop")
    packed, _ = pipeline.prepare_image_latents([pixels], 1, None, "cpu", torch.float32)
    found = denoiser.encode([picture])
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), packed, rtol=1e-4, atol=1e-4)


def test_a_prompt_is_encoded_as_in_diffusers(
    denoiser: Denoiser, pipeline: Flux2KleinPipeline
) -> None:
    long = "a red apple " * 60
    expected, _ = pipeline.encode_prompt([PROMPT, "", long])
    found = denoiser.text.embed([PROMPT, "", long]).states
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert denoiser.text.unread(PROMPT) == ""
    unread = denoiser.text.unread(long)
    assert long.strip().endswith(unread)
    assert 200 < len(unread) < len(long) - 400  # 512 tokens, which are bytes here


def test_a_size_between_two_places_is_a_sentence(denoiser: Denoiser) -> None:
    with pytest.raises(ModelError, match="multiple of 16 pixels"):
        sampling.sample(denoiser, [PROMPT], [3], replace(SETTINGS, width_px=72))


# --- learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["diffusion_dpo", "d3po"])
def test_a_round_teaches_it(objective: str, denoiser: Denoiser) -> None:
    expect_to_learn(denoiser, PROMPT, replace(SETTINGS, eta=0.7), objective)


def test_errors_are_of_the_velocity_that_diffusers_transformer_predicts(
    denoiser: Denoiser, pipeline: Flux2KleinPipeline
) -> None:
    pairs = PairBatch.of(sampling.sample_pairs(denoiser, [PROMPT], [1], SETTINGS))
    timesteps = torch.tensor([[250, 1000]])
    noise = torch.randn(1, 2, *pairs.latents.shape[2:], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        [errors] = velocity_errors(denoiser, pairs, [0], timesteps, noise)
        final = pairs.latents[[0, 0], -1]
        sigma = (timesteps[0] / 1000)[:, None, None, None]
        noisy = (1 - sigma) * final + sigma * noise[0]
        states, text_ids = pipeline.encode_prompt([PROMPT] * 2)
        packed, ids = pipeline.prepare_latents(
            2, 4, 96, 64, torch.float32, "cpu", None, latents=noisy
        )
        tokens = pipeline.transformer(
            hidden_states=packed,
            timestep=timesteps[0] / 1000,
            encoder_hidden_states=states,
            txt_ids=text_ids,
            img_ids=ids,
        ).sample
        velocity = tokens.transpose(1, 2).view_as(noisy)
    expected = (noise[0] - final - velocity).square().mean((1, 2, 3))
    torch.testing.assert_close(errors, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", ["diffusion_dpo", "d3po"])
def test_a_round_that_goes_on_ends_in_the_same_adapter(
    objective: str, klein_folder: Path, denoiser: Denoiser
) -> None:
    settings = replace(SETTINGS, eta=0.7)
    pairs = PairBatch.of(sampling.sample_pairs(denoiser, [PROMPT], [1], settings))
    few = {"updates_base": 2, "updates_per_pick": 0, "rank": 2, "alpha": 1.0}
    training_settings = replace(OBJECTIVES[objective], learning_rate=1e-2, **few)
    whole = Training(denoiser, pairs, training_settings)
    for _ in whole:
        pass
    expected = denoiser.adapters.state()
    first = Training(denoiser, pairs, training_settings)
    first.step()
    state = first.state()
    second = Training(models.load(str(klein_folder), "cpu"), pairs, training_settings)
    second.load_state(state)
    for _ in second:
        pass
    found = second.denoiser.adapters.state()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_saved_adapter_is_read_and_applied(denoiser: Denoiser, tmp_path: Path) -> None:
    denoiser.adapters.new(replace(OBJECTIVES["diffusion_dpo"], rank=2, alpha=1.0))
    for parameter in denoiser.adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    [tuned] = sampling.sample(denoiser, [PROMPT], [1], SETTINGS)
    denoiser.adapters.save(tmp_path)
    names = {name.partition(".lora_")[0] for name in denoiser.adapters.state()}
    # eight layers in a block of two streams, two in a block of one
    assert len(names) == 5 * 8 + 20 * 2
    denoiser.adapters.remove()
    with denoiser.adapters.using(tmp_path):
        [again] = sampling.sample(denoiser, [PROMPT], [1], SETTINGS)
    assert torch.equal(again.latents, tuned.latents)
    [base] = sampling.sample(denoiser, [PROMPT], [1], SETTINGS)
    assert not torch.allclose(base.latents[-1], tuned.latents[-1], atol=1e-2)


def test_gradient_checkpointing_changes_nothing(denoiser: Denoiser) -> None:
    denoiser.adapters.new(replace(OBJECTIVES["diffusion_dpo"], rank=2))
    for parameter in denoiser.adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    latents = torch.randn(1, *denoiser.latent_shape(SETTINGS))
    text = denoiser.text.embed([PROMPT])
    gradients = []
    for is_on in (False, True):
        denoiser.set_gradient_checkpointing(is_on)
        loss = denoiser.predict(latents, torch.tensor([500]), text).square().mean()
        gradients.append(torch.autograd.grad(loss, denoiser.adapters.parameters()))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


# --- how it is told from its folder --------------------------------------------------------------


@pytest.fixture
def copied(klein_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copied"
    shutil.copytree(klein_folder, folder)
    return folder


def change(folder: Path, file: str, **values: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_distilled_model_draws_as_in_diffusers_and_cannot_learn(copied: Path) -> None:
    change(copied, "model_index.json", is_distilled=True)
    (copied / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    denoiser = models.load(str(copied), "cpu")
    assert denoiser.info.words == "FLUX.2 klein 4B, distilled"
    assert denoiser.info.licence == "apache-2.0"
    assert "cannot learn" in denoiser.info.note
    pipeline = Flux2KleinPipeline.from_pretrained(copied, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    (chain,) = sampling.sample(denoiser, [PROMPT], [3], SETTINGS)  # its guidance is ignored
    expected = in_diffusers(pipeline, chain.latents[:1], SETTINGS, "latent")
    found = unnormalised(denoiser, chain.latents[-1:])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    pairs = PairBatch.of(sampling.sample_pairs(denoiser, [PROMPT], [1], SETTINGS))
    with pytest.raises(ModelError, match=r"is distilled .* choose the base model"):
        Training(denoiser, pairs, OBJECTIVES["diffusion_dpo"])


def test_4b_and_9b_are_told_by_their_blocks(tmp_path: Path) -> None:
    make_pipeline("flux2_klein_9b").save_pretrained(tmp_path / "nine")
    info = models.inspect(str(tmp_path / "nine"))
    assert (info.family, info.words) == ("flux2_klein_9b", "FLUX.2 klein base 9B")
    assert info.facts is FAMILIES["flux2_klein_9b"]


TEXT, VAE, NETWORK = "text_encoder/config.json", "vae/config.json", "transformer/config.json"
SCHEDULER = "scheduler/scheduler_config.json"
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "a text encoder of another kind": (
        lambda folder: change(folder, TEXT, model_type="mistral"),
        "reads prompts with Qwen3, and its text encoder is of another kind .mistral",
    ),
    "a text encoder of another size": (
        lambda folder: change(folder, TEXT, hidden_size=24),
        "needs Qwen3 of another size",
    ),
    "a text encoder of few layers": (
        lambda folder: change(folder, TEXT, num_hidden_layers=20),
        "needs Qwen3 of another size",
    ),
    "a vae of other channels": (
        lambda folder: change(folder, VAE, latent_channels=16),
        "needs a VAE of 4 channels, and its VAE has 16",
    ),
    "a shortened network": (
        lambda folder: change(folder, NETWORK, num_single_layers=18),
        "has 5 and 18 blocks",
    ),
    "a schedule of tomorrow": (
        lambda folder: change(folder, SCHEDULER, invert_sigmas=True),
        "noise schedule that is not supported",
    ),
    "a diffusion": (
        lambda folder: change(folder, SCHEDULER, _class_name="DDIMScheduler"),
        "predicts epsilon, which is not supported",
    ),
    "no numbers of blocks": (
        lambda folder: change(folder, NETWORK, num_layers="many"),
        "damaged|has many and 20 blocks",
    ),
    "no vae": (lambda folder: (folder / VAE).unlink(), "vae/config.json is missing"),
    "no transformer": (
        lambda folder: shutil.rmtree(folder / "transformer"),
        "transformer/config.json is missing",
    ),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_what_does_not_fit_together_is_a_sentence(what: str, copied: Path) -> None:
    spoil, words = WRONG[what]
    spoil(copied)
    with pytest.raises(ModelError, match=words):
        models.inspect(str(copied))


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_weights_that_are_no_numbers_are_a_sentence(part: str, copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    [path] = (copied / part).glob("*.safetensors")
    tensors = load_file(path)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match="not all numbers"):
        models.load(str(copied), "cpu")
