"""Every family from a folder and from a single file: the very model that diffusers has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from studio import models
from studio.bench.families import FAMILIES, make_pipeline, write_checkpoint
from studio.engine import sampling
from studio.lora.export import export_lora
from studio.lora.format import LoraError
from studio.lora.metadata import ExportInfo
from studio.models import ModelError
from studio.models.networks import added_cond_kwargs
from studio.settings import OBJECTIVES, SamplingSettings
from tests.support.rounds import expect_to_learn

SETTINGS = SamplingSettings(steps=3, width_px=64, height_px=72, guidance=3.0, eta=0.0)
PROMPT = "a red apple, on a café's table"


class Made:
    """A model of a family, as diffusers holds it, as a folder and as a file."""

    def __init__(self, family: str, root: Path) -> None:
        self.family = family
        self.pipeline = make_pipeline(family)
        self.folder = root / family
        self.file = root / f"{family}.safetensors"
        self.pipeline.save_pretrained(self.folder)
        write_checkpoint(self.file, self.pipeline, family)
        if family == "sd2_v":
            self.file.with_suffix(".yaml").write_text('model:\n  parameterization: "v"\n')


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def no_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked the internet")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.mark.parametrize("form", ["folder", "file"])
@pytest.mark.parametrize("negative", ["", "blurry"])
def test_without_noise_it_is_diffusers_own_pipeline(
    made: Made, form: str, negative: str, no_internet: None
) -> None:
    denoiser = models.load(str(getattr(made, form)), "cpu")
    info = denoiser.info
    assert info.family == {"sd2_v": "sd2"}.get(made.family, made.family)
    assert denoiser.prediction_type == made.pipeline.scheduler.config.prediction_type
    settings = replace(SETTINGS, negative_prompt=negative)
    (chain,) = sampling.sample(denoiser, [PROMPT], [3], settings)
    expected = made.pipeline(
        PROMPT,
        negative_prompt=negative or None,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        latents=chain.latents[:1],
        width=settings.width_px,
        height=settings.height_px,
        output_type="latent",
        eta=0.0,
    ).images
    torch.testing.assert_close(chain.latents[-1:], expected, rtol=1e-4, atol=1e-4)
    [picture] = sampling.images(denoiser, [chain])
    assert picture.size == (64, 72)


@pytest.mark.parametrize("clip_skip", [2, 3])
def test_clip_skip_is_diffusers_own(
    made: Made, clip_skip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # diffusers' pipeline asks for the level that transformers' CLIPTextModel has lost
    monkeypatch.setattr(CLIPTextModel, "text_model", property(lambda self: self), raising=False)
    denoiser = models.load(str(made.file), "cpu")
    settings = replace(SETTINGS, negative_prompt="blurry", clip_skip=clip_skip)
    (chain,) = sampling.sample(denoiser, [PROMPT], [3], settings)
    # A1111's 1 is nothing left out, which is diffusers' None; SDXL has its own layer always.
    as_diffusers = clip_skip - 1 if clip_skip > 1 and made.family != "sdxl" else None
    unwanted: dict[str, object] = {"negative_prompt": "blurry"}
    if as_diffusers:  # diffusers leaves the negative prompt alone, A1111 skips in both
        encoded = made.pipeline.encode_prompt("blurry", "cpu", 1, False, clip_skip=as_diffusers)
        unwanted = {"negative_prompt_embeds": encoded[0]}
    expected = made.pipeline(
        PROMPT,
        **unwanted,
        clip_skip=as_diffusers,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        latents=chain.latents[:1],
        width=settings.width_px,
        height=settings.height_px,
        output_type="latent",
        eta=0.0,
    ).images
    torch.testing.assert_close(chain.latents[-1:], expected, rtol=1e-4, atol=1e-4)
    (whole,) = sampling.sample(denoiser, [PROMPT], [3], replace(settings, clip_skip=1))
    same = torch.allclose(whole.latents[-1], chain.latents[-1], atol=1e-5)
    assert same == (as_diffusers is None)


def test_file_and_folder_hold_the_same_weights(made: Made) -> None:
    folder, file = (models.load(str(path), "cpu") for path in (made.folder, made.file))
    modules = [(held.network, held.vae, *held.text_encoders) for held in (folder, file)]
    for one, other in zip(*modules, strict=True):
        weights, found = one.state_dict(), other.state_dict()
        assert weights.keys() == found.keys()
        assert all(torch.equal(weights[key], found[key]) for key in weights)
    text = "a photo of 3 cats, naïve 🦊"
    for one, other in zip(folder.tokenizers, file.tokenizers, strict=True):
        text = "a photo of 3 cats, naïve 🦊"
        assert (
            one(text, padding="max_length").input_ids == other(text, padding="max_length").input_ids
        )


def test_emphasis_reaches_every_text_encoder(made: Made) -> None:
    denoiser = models.load(str(made.folder), "cpu")
    plain, heavy = (denoiser.text.embed([p]) for p in (PROMPT, PROMPT.replace("red", "(red:1.5)")))
    assert plain.states.shape == heavy.states.shape
    width = 0
    for encoder in denoiser.text_encoders:  # their states stand side by side
        part = slice(width, width + encoder.config.hidden_size)
        assert not torch.equal(plain.states[..., part], heavy.states[..., part])
        width = part.stop
    assert width == plain.states.shape[-1]
    if plain.pooled is not None:
        assert torch.equal(plain.pooled, heavy.pooled)


@pytest.mark.parametrize("objective", ["diffusion_dpo", "d3po"])
def test_a_round_teaches_every_family(made: Made, objective: str) -> None:
    denoiser = models.load(str(made.file), "cpu")
    expect_to_learn(denoiser, PROMPT, replace(SETTINGS, eta=1.0), objective)


def test_sdxl_is_told_its_size(tmp_path: Path) -> None:
    made = Made("sdxl", tmp_path)
    denoiser = models.load(str(made.folder), "cpu")
    text = denoiser.text.embed([PROMPT, "a lion"])
    latents = torch.zeros(2, 4, 9, 8)
    added = added_cond_kwargs(latents, text, denoiser.vae_scale_factor, denoiser.dtype)
    assert added["time_ids"].tolist() == [[72, 64, 0, 0, 72, 64]] * 2
    assert added["text_embeds"].shape == text.pooled.shape == (2, 128)
    nothing = denoiser.text.embed_negative("", 2)
    assert not nothing.states.any()
    assert not nothing.pooled.any()
    assert denoiser.text.embed_negative("blurry", 2).states.any()


# --- how the prediction type of a single file is told --------------------------------------------


@pytest.fixture(scope="module")
def sd2_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sd2") / "sd2.safetensors"
    return write_checkpoint(path, make_pipeline("sd2"), "sd2")


def changed(path: Path, to: Path, tensors: dict | None = None, metadata: dict | None = None) -> str:
    save_file(load_file(path) | (tensors or {}), to, metadata)
    return str(to)


LAST_BIAS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


@pytest.mark.parametrize(
    ("tensors", "metadata", "expected"),
    [
        ({LAST_BIAS: torch.tensor([-0.2, 0.2] * 32)}, {}, "v_prediction"),
        ({LAST_BIAS: torch.tensor([-0.05, 0.05] * 32)}, {}, "epsilon"),
        ({}, {"modelspec.prediction_type": "v"}, "v_prediction"),
        ({}, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction"),
        (
            {LAST_BIAS: torch.tensor([-0.2, 0.2] * 32)},
            {"modelspec.prediction_type": "epsilon"},
            "epsilon",
        ),
        ({"v_pred": torch.zeros(1)}, {}, "v_prediction"),
    ],
)
def test_what_a_single_file_predicts(tensors, metadata, expected, sd2_file, tmp_path) -> None:
    path = changed(sd2_file, tmp_path / "model.safetensors", tensors, metadata)
    info = models.inspect(path)
    assert (info.family, info.prediction_type) == ("sd2", expected)
    assert info.size_px == (768 if expected == "v_prediction" else 512)
    # a file beside it has the last word
    other = "eps" if expected == "v_prediction" else "v"
    (tmp_path / "model.yaml").write_text(f"model:\n  params:\n    parameterization: {other}\n")
    assert models.inspect(path).prediction_type != expected


def test_a_last_timestep_without_signal_is_no_division_by_nothing(sd2_file, tmp_path) -> None:
    marks = {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}
    denoiser = models.load(changed(sd2_file, tmp_path / "z.safetensors", marks), "cpu")
    pipeline = make_pipeline("sd2")
    pipeline.scheduler = denoiser.scheduler
    (chain,) = sampling.sample(denoiser, [PROMPT], [3], replace(SETTINGS, height_px=64))
    assert chain.timesteps[0] == 999
    expected = pipeline(
        PROMPT,
        num_inference_steps=3,
        guidance_scale=3.0,
        latents=chain.latents[:1],
        output_type="latent",
    ).images
    torch.testing.assert_close(chain.latents[-1:], expected, rtol=1e-2, atol=1e-2)


def test_weights_that_do_not_fit_are_a_sentence(sd2_file, tmp_path) -> None:
    key = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
    path = changed(sd2_file, tmp_path / "odd.safetensors", {key: torch.zeros(3, 3)})
    with pytest.raises(ModelError, match="do not fit together like those of Stable Diffusion 2"):
        models.load(path, "cpu")


# --- the adapter out -----------------------------------------------------------------------------


@pytest.fixture
def tuned(made: Made) -> models.Denoiser:
    """With an adapter that changes something, of an alpha that is not its rank."""
    denoiser = models.load(str(made.folder), "cpu")
    denoiser.adapters.new(replace(OBJECTIVES["diffusion_dpo"], rank=4, alpha=2.0))
    torch.manual_seed(1)
    for parameter in denoiser.adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return denoiser


@pytest.mark.parametrize(
    "precision", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.nightly)]
)
def test_the_files_draw_what_the_adapter_draws(
    precision: str, made: Made, tuned: models.Denoiser, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, eta=1.0)
    (expected,) = sampling.sample(tuned, [PROMPT], [1], settings)
    with tuned.adapters.off():
        (base,) = sampling.sample(tuned, [PROMPT], [1], settings)
    gained = (expected.latents[-1] - base.latents[-1]).norm()
    seen = []

    def look(path: Path, form: str) -> dict[str, str]:
        with tuned.adapters.using_file(path):
            (found,) = sampling.sample(tuned, [PROMPT], [1], settings)
        error = (found.latents[-1] - expected.latents[-1]).norm() / gained
        assert error < {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}[precision]
        seen.append(form)
        return {"picture": "looked at"}

    info = ExportInfo(
        "sd2_v" if made.family == "sd2_v" else tuned.info.family, "some model", 3, 0.0
    )
    report = export_lora(
        tmp_path,
        "mine",
        tuned.adapters.state(),
        4,
        2.0,
        info,
        precision=precision,
        layers=tuned.adapters.layer_shapes,
        verify=look,
    )
    assert seen == ["kohya", "diffusers"]
    assert report.checks["mine.safetensors: picture"] == "looked at"
    assert report.checks["mine.safetensors: base model"].startswith("has all ")
    stored = load_file(tmp_path / "mine.safetensors")
    halves = [value for key, value in stored.items() if key.endswith("weight")]
    assert {str(value.dtype) for value in halves} == {f"torch.{precision}"}
    # afterwards the attached adapter is applied again
    (again,) = sampling.sample(tuned, [PROMPT], [1], settings)
    assert torch.equal(again.latents, expected.latents)


def test_an_adapter_of_another_model_is_not_written(tuned: models.Denoiser, tmp_path: Path) -> None:
    layers = tuned.adapters.layer_shapes
    lost = next(name for name in layers if name.endswith("attn2.to_k"))
    state = tuned.adapters.state()
    info = ExportInfo("sd1", "some model", 3, 0.0)
    for changed, words in (
        ({k: v for k, v in layers.items() if k != lost}, "does not have"),
        (layers | {lost: (1, 1)}, "does not fit"),
    ):
        with pytest.raises(LoraError, match=words):
            export_lora(tmp_path / "x", "x", state, 4, 2.0, info, layers=changed)
        assert not (tmp_path / "x").exists()


def test_a_lora_file_that_does_not_fit_is_a_sentence(sd2_file: Path, tmp_path: Path) -> None:
    denoiser = models.load(str(sd2_file), "cpu")
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"

    def lora(down: int, extra: str = "") -> Path:
        path = tmp_path / "lora.safetensors"
        save_file(
            {
                f"{name}{extra}.lora_down.weight": torch.ones(2, down),
                f"{name}{extra}.lora_up.weight": torch.ones(64, 2),
                f"{name}{extra}.alpha": torch.tensor(1.0),
            },
            path,
        )
        return path

    with denoiser.adapters.using_file(lora(64)):
        assert not denoiser.adapters.is_attached
    for path, words in (
        (lora(32), "does not fit"),
        (lora(64, "x"), "does not fit"),
        (sd2_file, "is not a LoRA"),
    ):
        with pytest.raises(ModelError, match=words), denoiser.adapters.using_file(path):
            raise AssertionError("it was applied")
        assert "guest" not in getattr(denoiser.network, "peft_config", {})
    with (
        pytest.raises(ModelError, match="is missing"),
        denoiser.adapters.using_file(tmp_path / "none"),
    ):
        pass
