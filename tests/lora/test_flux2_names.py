"""LoRA files of FLUX.2: names, q, k and v in one layer, and diffusers' own reading of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import Flux2KleinPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio import models
from studio.bench.flux2 import make_pipeline, original_tensors
from studio.engine import sampling
from studio.lora import flux2, fuse, merge, tools
from studio.lora.export import check, export_lora
from studio.lora.format import LoraError, LowRank, from_peft
from studio.lora.format import read as read_lora
from studio.lora.metadata import ExportInfo
from studio.models import Denoiser, ModelError
from studio.settings import OBJECTIVES, SamplingSettings, StartLora

SETTINGS = SamplingSettings(steps=2, width_px=64, height_px=64, guidance=1.0, eta=0.0)
PROMPT, RANK, ALPHA = "a red apple", 4, 2.0
INFO = ExportInfo("flux2_klein_4b", "some model", 3, 0.0, prediction_type="flow_prediction")
LAYERS, IN_FILE = 5 * 8 + 20 * 2, 5 * 4 + 20 * 2  # q, k and v of both streams are one in a file


@pytest.fixture(scope="module")
def tuned(klein_folder: Path) -> Denoiser:
    """A model with an adapter that changes something, as a trained one does."""
    denoiser = models.load(str(klein_folder), "cpu")
    denoiser.adapters.new(replace(OBJECTIVES["diffusion_dpo"], rank=RANK, alpha=ALPHA))
    torch.manual_seed(1)
    for parameter in denoiser.adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return denoiser


@pytest.fixture(scope="module")
def adapter(tuned: Denoiser) -> dict[str, LowRank]:
    return from_peft(tuned.adapters.state(), RANK, ALPHA)


@pytest.fixture(scope="module")
def exported(tuned: Denoiser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file for other tools; that for diffusers and a file for merging lie beside it."""
    folder = tmp_path_factory.mktemp("exported")
    state, layers = tuned.adapters.state(), tuned.adapters.layer_shapes
    export_lora(folder, "mine", state, RANK, ALPHA, INFO, layers=layers)
    return folder / "mine.safetensors"


@pytest.fixture(scope="module")
def chain(tuned: Denoiser) -> Tensor:
    """The latents of a drawing with the adapter."""
    return sampling.sample(tuned, [PROMPT], [1], SETTINGS)[0].latents


@pytest.fixture
def plain(klein_folder: Path) -> Denoiser:
    return models.load(str(klein_folder), "cpu")


def draw(denoiser: Denoiser) -> Tensor:
    return sampling.sample(denoiser, [PROMPT], [1], SETTINGS)[0].latents


def expect_same(found: Tensor, wanted: Tensor, base: Tensor) -> None:
    """Of what a LoRA changes, all but a thousandth."""
    gained = (wanted[-1] - base[-1]).norm()
    assert gained > 0.1
    assert (found[-1] - wanted[-1]).norm() / gained < 1e-3


# --- the files -----------------------------------------------------------------------------------


def test_the_file_has_the_original_names_and_no_alphas(
    exported: Path, adapter: Mapping[str, LowRank]
) -> None:
    own = original_tensors(make_pipeline("flux2_klein_4b").transformer)
    tensors = load_file(exported)
    assert len(tensors) == 2 * IN_FILE
    for key, tensor in tensors.items():
        layer, _, half = key.removeprefix("diffusion_model.").rpartition(".lora_")
        rows, columns = own[f"{layer}.weight"].shape
        rank = 3 * RANK if layer.endswith(".qkv") else RANK
        assert tensor.shape == {"A.weight": (rank, columns), "B.weight": (rows, rank)}[half]
    # the change of three layers below one another, written by hand
    down = tensors["diffusion_model.double_blocks.3.txt_attn.qkv.lora_A.weight"]
    up = tensors["diffusion_model.double_blocks.3.txt_attn.qkv.lora_B.weight"]
    names = (f"transformer_blocks.3.attn.add_{letter}_proj" for letter in "qkv")
    wanted = torch.cat([ALPHA / RANK * adapter[name].up @ adapter[name].down for name in names])
    torch.testing.assert_close(up @ down, wanted)


def test_the_files_tell_their_family(exported: Path) -> None:
    metadata = read_lora(exported).metadata
    assert metadata["modelspec.architecture"] == "Flux.2-klein-4b/lora"
    assert metadata["ss_base_model_version"] == "flux_2_klein_4b"
    assert metadata["ss_network_dim"] == str(RANK)


@pytest.mark.parametrize("name", ["mine.safetensors", "mine-diffusers.safetensors"])
def test_diffusers_own_pipeline_draws_the_same_with_it(
    name: str, exported: Path, chain: Tensor, klein_folder: Path, plain: Denoiser
) -> None:
    pipeline = Flux2KleinPipeline.from_pretrained(klein_folder, local_files_only=True)
    pipeline.load_lora_weights(str(exported.parent), weight_name=name)
    changed = [
        key for key, module in pipeline.transformer.named_modules() if hasattr(module, "lora_A")
    ]
    assert len(changed) == LAYERS
    found = []
    pipeline(
        prompt=PROMPT,
        num_inference_steps=SETTINGS.steps,
        guidance_scale=1.0,
        latents=chain[:1],
        width=64,
        height=64,
        output_type="latent",
        callback_on_step_end=lambda *args: found.append(args[3]["latents"]) or {},
    )
    last = found[-1].transpose(1, 2).view_as(chain[-1:])
    expect_same(last, chain, draw(plain))


@pytest.mark.parametrize("name", ["mine.safetensors", "mine-diffusers.safetensors"])
def test_the_studio_reads_it_back(
    name: str, exported: Path, chain: Tensor, plain: Denoiser
) -> None:
    base = draw(plain)
    with plain.adapters.using_file(exported.with_name(name)):
        expect_same(draw(plain), chain, base)
    with plain.with_lora(read_lora(exported.with_name(name))):
        expect_same(draw(plain), chain, base)
    assert torch.equal(draw(plain), base)
    words = plain.fit(read_lora(exported.with_name(name))).words
    count = IN_FILE if name == "mine.safetensors" else LAYERS
    assert words == f"{count} layers of the image network, rank {12 if count == IN_FILE else 4}."


def wrong_scale(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: 2 * v if ".lora_B." in key else v for key, v in tensors.items()}


def wrong_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.replace("diffusion_model.", "model."): value for key, value in tensors.items()}


def rolled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """q, k and v in another order."""
    return {k: v.roll(len(v) // 3, 0) if "qkv.lora_B" in k else v for k, v in tensors.items()}


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (wrong_scale, "has another effect"),
        (wrong_prefix, "its layers are not the adapter's"),
        (rolled, "has another effect"),
    ],
)
def test_mistakes_are_caught(mistake, words, exported, adapter, tmp_path) -> None:
    broken = tmp_path / "broken.safetensors"
    save_file(mistake(load_file(exported)), broken, read_lora(exported).metadata)
    with pytest.raises(LoraError, match=words):
        check(broken, "original", adapter, "flux2_klein_4b")
    assert check(exported, "original", adapter, "flux2_klein_4b")["numbers"] == "all finite"


# --- files of other trainers ---------------------------------------------------------------------


def as_musubi(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """kohya's names of the original layers, with alphas."""
    renamed = {}
    for key, value in tensors.items():
        layer, _, half = key.removeprefix("diffusion_model.").rpartition(".lora_")
        name = f"lora_unet_{layer.replace('.', '_')}"
        renamed[f"{name}.lora_{'down' if half[0] == 'A' else 'up'}.weight"] = value
        if half[0] == "A":
            renamed[f"{name}.alpha"] = torch.tensor(float(len(value)))
    return renamed


def as_bfl(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.replace("diffusion_model.", "base_model.model."): value
        for key, value in tensors.items()
    }


@pytest.mark.parametrize("rename", [as_musubi, as_bfl])
def test_files_of_other_trainers_are_read(
    rename, exported: Path, chain: Tensor, plain: Denoiser, tmp_path: Path
) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file(rename(load_file(exported)), path)
    base = draw(plain)
    with plain.with_lora(read_lora(path)):
        expect_same(draw(plain), chain, base)
    with plain.adapters.using_file(path):  # diffusers takes every layer of it too
        expect_same(draw(plain), chain, base)


def test_every_layer_of_the_original_is_known_and_only_once(plain: Denoiser) -> None:
    own = original_tensors(make_pipeline("flux2_klein_4b").transformer)
    linear = {key.removesuffix(".weight") for key, value in own.items() if value.ndim == 2}
    found: dict[str, list[int | None]] = {}
    for layer, _ in fuse.layers(plain.network):
        if spelling := flux2.original(layer):
            found.setdefault(spelling.name, []).append(spelling.third)
    # its halves, scale and shift, have another order in diffusers
    assert linear - found.keys() == {"final_layer.adaLN_modulation.1"}
    assert found.keys() <= linear
    for name, thirds in found.items():
        assert thirds == ([0, 1, 2] if name.endswith(".qkv") else [None])


def test_a_lora_of_the_9b_is_refused_in_a_sentence(
    exported: Path, plain: Denoiser, tmp_path: Path
) -> None:
    make_pipeline("flux2_klein_9b").save_pretrained(tmp_path / "nine")
    nine = models.load(str(tmp_path / "nine"), "cpu")
    nine.adapters.new(replace(OBJECTIVES["diffusion_dpo"], rank=RANK, alpha=ALPHA))
    info = replace(INFO, family="flux2_klein_9b")
    # of the layers that both have, these differ in width; the rest has other names
    export_lora(tmp_path, "nine", nine.adapters.state(), RANK, ALPHA, info)
    path = tmp_path / "nine.safetensors"
    with (
        pytest.raises(ModelError, match="it was made for another kind of model"),
        plain.adapters.using_file(path),
    ):
        pass
    with pytest.raises(ModelError, match=r"another kind of model \(FLUX.2 klein base 9B\): "):
        plain.fit(read_lora(path))


# --- starting from one, merging, resizing, blending ----------------------------------------------


def test_a_session_can_start_from_it(exported: Path, chain: Tensor, klein_folder: Path) -> None:
    start = StartLora(str(exported), 1.0)
    denoiser = models.load(str(klein_folder), "cpu", start=start)
    assert denoiser.start is not None
    assert (denoiser.start.unet_layers, denoiser.start.strays) == (IN_FILE, ())
    base = draw(models.load(str(klein_folder), "cpu"))
    expect_same(draw(denoiser), chain, base)


def test_it_is_resized_and_blended(
    exported: Path, chain: Tensor, plain: Denoiser, tmp_path: Path
) -> None:
    base = draw(plain)
    lora = tools.read(exported)
    assert lora.form == "original"
    same, share = tools.resize(lora, 12)
    assert share > 0.999
    tools.write(tmp_path / "same.safetensors", same)
    half = tools.blend([lora, same], [0.25, 0.75])
    tools.write(tmp_path / "blended.safetensors", half)
    for name in ("same", "blended"):
        path = tmp_path / f"{name}.safetensors"
        with plain.adapters.using_file(path):
            expect_same(draw(plain), chain, base)


def test_it_is_merged_into_a_folder(
    exported: Path, chain: Tensor, plain: Denoiser, klein_folder: Path, tmp_path: Path
) -> None:
    shapes = plain.adapters.layer_shapes
    for name in ("mine.safetensors", "mine-diffusers.safetensors"):
        lora = tools.read(exported.with_name(name))
        out = tmp_path / name
        count = merge.merge(lora, 1.0, klein_folder, "flux2_klein_4b", shapes, [], out)
        assert count == len(lora.parts)
        expect_same(draw(models.load(str(out), "cpu")), chain, draw(plain))
        shutil.rmtree(out)


def test_it_is_merged_into_a_file_of_the_original_names(
    exported: Path, adapter: Mapping[str, LowRank], plain: Denoiser, tmp_path: Path
) -> None:
    tensors = original_tensors(plain.network)
    save_file(tensors, tmp_path / "base.safetensors")
    shapes, out = plain.adapters.layer_shapes, tmp_path / "merged.safetensors"
    lora = tools.read(exported)
    merge.merge(lora, 0.5, tmp_path / "base.safetensors", "flux2_klein_4b", shapes, [], out)
    merged = load_file(out)
    name = "double_blocks.2.img_attn.qkv.weight"
    layers = (f"transformer_blocks.2.attn.to_{letter}" for letter in "qkv")
    change = torch.cat([adapter[layer].change() for layer in layers])
    torch.testing.assert_close(merged[name] - tensors[name], 0.5 * change, rtol=1e-3, atol=1e-5)
    assert torch.equal(merged["img_in.weight"], tensors["img_in.weight"])
