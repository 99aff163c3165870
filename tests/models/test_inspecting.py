"""What looking at a model promises, loading keeps; what changes what weights mean is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio import models
from studio.bench.families import FAMILIES, make_pipeline, write_checkpoint
from studio.models import ModelError

UNET = "model.diffusion_model."
CLIP = "conditioner.embedders.0.transformer.text_model."
Change = Callable[[dict[str, Tensor]], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint of each family."""
    root = tmp_path_factory.mktemp("whole")
    return {
        name: load_file(write_checkpoint(root / f"{name}.safetensors", make_pipeline(name), name))
        for name in FAMILIES
    }


def without(*parts: str) -> Change:
    def change(tensors: dict[str, Tensor]) -> None:
        for key in [key for key in tensors if any(part in key for part in parts)]:
            del tensors[key]

    return change


def plus(key: str, value: Tensor | None = None) -> Change:
    return lambda tensors: tensors.update({key: torch.ones(()) if value is None else value})


def scaled(key: str) -> Change:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[f"{key}.weight"] = tensors[f"{key}.weight"].to(torch.float8_e4m3fn)
        tensors[f"{key}.scale_weight"] = torch.tensor(2.0)

    return change


def packed(tensors: dict[str, Tensor]) -> None:
    key = f"{UNET}middle_block.1.proj_in.weight"
    tensors[key] = tensors[key].to(torch.int8)


REFUSED: dict[str, tuple[str, Change, str]] = {
    "cosxl": ("sdxl", plus("edm_vpred.sigma_max"), "is a CosXL model"),
    "playground": ("sdxl", plus("edm_mean"), "is a Playground 2.5 model"),
    "a schedule of tomorrow": ("sdxl", plus("flow_shift"), "noise schedule .*see flow_shift"),
    "zero snr by another name": ("sd1", plus("zsnr"), "noise schedule .*see zsnr"),
    "lcm": ("sd1", plus(f"{UNET}time_embed.cond_proj.weight"), "is an LCM"),
    "fp8 unet": ("sdxl", scaled(f"{UNET}middle_block.1.proj_in"), "quantized"),
    "fp8 text encoder": ("sdxl", scaled(f"{CLIP}encoder.layers.0.mlp.fc1"), "quantized"),
    "weight_scale": ("sd1", plus(f"{UNET}out.2.weight_scale"), "quantized"),
    "fp8 mark": ("sd1", plus("scaled_fp8"), "quantized"),
    "8-bit": ("sd1", packed, "quantized"),
    "ssd-1b": (
        "sdxl",
        without(
            *(
                f"{place}.1.transformer_blocks.{n}."
                for place in ("_blocks.7", "_blocks.8")
                for n in range(4, 10)
            ),
            "middle_block.1.transformer_blocks.",
        ),
        "shortened models, such as SSD-1B",
    ),
    "bk-sdm": ("sd1", without("middle_block."), "shortened models, such as SSD-1B"),
    "no last layer": ("sd2", without("output_blocks.11.0."), "incomplete|not fit together"),
    "part of a vae": ("sd1", without("decoder.mid.attn_1.q."), "incomplete|not fit together"),
    "text encoder cut": (
        "sdxl",
        without("encoder.layers.1.mlp.fc2"),
        "incomplete|not fit together",
    ),
    "another width": (
        "sd1",
        plus(f"{UNET}middle_block.1.proj_in.weight", torch.ones(3, 3, 1, 1)),
        "fit together like those of Stable Diffusion 1",
    ),
    "more than there is room for": (
        "sd1",
        plus(f"{UNET}middle_block.3.weight"),
        "fit together like those of Stable Diffusion 1",
    ),
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_what_could_not_be_loaded_is_refused_when_it_is_looked_at(
    what: str, whole: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    family, change, said = REFUSED[what]
    tensors = dict(whole[family])
    change(tensors)
    path = tmp_path / "changed.safetensors"
    save_file(tensors, path)
    with pytest.raises(ModelError, match=said):
        models.inspect(str(path))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("more", [None, "v_pred", "ztsnr", "model_ema.decay", "betas", "logvar"])
def test_what_is_looked_at_and_found_good_loads(
    family: str, more: str | None, whole: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    save_file(whole[family] | ({more: torch.ones(())} if more else {}), path)
    info = models.inspect(str(path))
    assert info.zero_snr == (more == "ztsnr")
    if more is None:
        assert models.load(str(path), "cpu").info.family == info.family


def test_a_prediction_that_is_not_known_is_named(
    whole: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    save_file(whole["sd1"], path, {"modelspec.prediction_type": "rectified flow"})
    with pytest.raises(ModelError, match="predicts rectified flow"):
        models.inspect(str(path))


def test_a_folder_with_scales_is_refused(tmp_path: Path) -> None:
    make_pipeline("sd1").save_pretrained(tmp_path / "sd1")
    path = tmp_path / "sd1" / "text_encoder" / "model.safetensors"
    save_file(load_file(path) | {"encoder.layers.0.mlp.fc1.scale_weight": torch.ones(())}, path)
    with pytest.raises(ModelError, match="quantized"):
        models.inspect(str(tmp_path / "sd1"))


def test_the_licence_is_read_from_the_file_or_the_folder(
    whole: dict[str, dict[str, Tensor]], tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    save_file(whole["sd1"], path, {"modelspec.license": "CreativeML\nOpen RAIL-M "})
    assert models.inspect(str(path)).licence == "CreativeML Open RAIL-M"
    folder = tmp_path / "folder"
    shutil.copytree(tiny_model, folder)
    for text, licence in (
        ("---\nlicense: openrail++ # of the weights\ntags: [x]\n---\n", "openrail++"),
        ("---\nlicense: other\nlicense_name: 'fair-ai'\n---\n", "fair-ai"),
        ("---\ntags: []\n---\nlicense: mit\n", ""),
        ("license: mit\n", ""),
    ):
        (folder / "README.md").write_text(text)
        assert models.inspect(str(folder)).licence == licence
    (folder / "README.md").unlink()
    assert models.inspect(str(folder)).licence == ""
