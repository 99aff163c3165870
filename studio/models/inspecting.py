"""Recognition of models: the family of a file or folder, from its header.

`predictions` tells what its network predicts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studio import weights
from studio.families import (
    FAMILIES,
    KLEIN_PIPELINE,
    UNET_PREFIX,
    XL_PIPELINE,
    Family,
    FamilyName,
    TextEncoder,
    family_of,
)
from studio.maths.schedules import PredictionType
from studio.models import hub, predictions, recognising
from studio.paths import expanded
from studio.settings import STARTER_PATH, is_hub_id
from studio.weights import Header, ModelError

UNET = UNET_PREFIX
VAE = "first_stage_model."
VAE_ENDING = ".vae.safetensors"  # of a file that lies beside a checkpoint
PIPELINES = tuple(dict.fromkeys(family.pipeline for family in FAMILIES.values()))
LICENCE = "modelspec.license"  # of a checkpoint's metadata, by Stability's ModelSpec
MOST_LICENCE = 80  # characters
MOST_README = 65_536  # bytes
CAN = "Stable Diffusion 1.x, 2.x and XL, and FLUX.2 klein can be used."
DISTILLED = (
    "It is distilled: it draws in a few steps, without guidance, and cannot learn. To learn, "
    "choose the base model."
)


@dataclass(frozen=True)
class ModelInfo:
    """The description of a model file or folder, made without loading its weights."""

    path: Path
    name: str
    family: FamilyName
    prediction_type: PredictionType
    size_px: int  # of the images it was trained on
    zero_snr: bool = False  # its last timestep is pure noise
    vae: Path | None = None  # a file beside a checkpoint, with a VAE that replaces its own
    weights_hash: str = ""  # "": its weights were not read
    note: str = ""  # a sentence for the artist
    licence: str = ""  # as its files name it
    is_distilled: bool = False  # it draws in a few steps, without guidance, and cannot learn

    @property
    def facts(self) -> Family:
        """Its family's entry in the table."""
        return family_of(self.family, self.prediction_type)

    @property
    def words(self) -> str:
        """The family in an artist's words."""
        if self.path == STARTER_PATH:
            return "Starter"
        if self.is_distilled:
            return self.facts.words.replace(" base", "") + ", distilled"
        velocity = ", v-prediction" if self.prediction_type == "v_prediction" else ""
        return f"{self.facts.words}{velocity}"


def base_path(base_model: str) -> Path:
    """The path of a model. Raises ModelError for a hub model that is not downloaded."""
    if is_hub_id(base_model):
        return hub.cached(base_model)
    return STARTER_PATH if base_model == "starter" else expanded(base_model)


def inspect(base_model: str, has_weights: bool = True) -> ModelInfo:
    """Inspect a diffusers folder or a checkpoint. Raises ModelError that says what to do.

    has_weights: False for a folder that is still being downloaded.
    """
    path = base_path(base_model)
    try:
        if not path.exists():
            raise ModelError(f"There is no model at {path}. Check the path, or choose the starter.")
        if path.is_dir():
            info = _inspect_folder(path, has_weights)
            return replace(info, name=base_model) if is_hub_id(base_model) else info
    except OSError as error:  # a folder without permission, or an impossible name
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    if path.suffix.lower() == ".gguf":
        return _inspect_checkpoint(path)  # raises with its own sentence
    if path.suffix.lower() != weights.SUFFIX:
        raise ModelError(
            f"{path.name} is not a .safetensors file. Other checkpoints can hide programs and are "
            "not opened; convert it to .safetensors first."
        )
    return _inspect_checkpoint(path)


# --- a diffusers folder --------------------------------------------------------------------------

# Other pipelines, in the words of `_refusal`.
OTHER_PIPELINES = (
    ("Inpaint", "an inpainting model"),
    ("StableDiffusionXLImg2Img", "the SDXL refiner"),
    ("StableDiffusion3", "a Stable Diffusion 3 model"),
    ("Flux", "a FLUX model"),
    ("ControlNet", "a ControlNet"),
)


def _refusal(name: str, what: str) -> ModelError:
    hint = {
        "the SDXL refiner": "Choose the SDXL base model instead. ",
        "an inpainting model": "Choose the model it was made from instead. ",
    }.get(what, "")
    return ModelError(f"{name} is {what}, which cannot be tuned here. {hint}{CAN}")


def _inspect_folder(path: Path, has_weights: bool) -> ModelInfo:
    try:
        index = weights.read_json(path / "model_index.json")
        pipeline = index.get("_class_name")
        if not isinstance(pipeline, str) or pipeline not in PIPELINES:
            raise _other_pipeline(path, pipeline)
        if pipeline == KLEIN_PIPELINE:
            return _transformer_folder(path, index, has_weights)
        unet = weights.read_json(path / "unet" / "config.json")
        vae = weights.read_json(path / "vae" / "config.json")
        scheduler = weights.read_json(path / "scheduler" / "scheduler_config.json")
        if unet["in_channels"] == 9:
            raise _refusal(path.name, "an inpainting model")
        if unet["in_channels"] != unet["out_channels"]:
            raise _refusal(path.name, "a model that changes pictures by instruction")
        vae_scale_factor = 2 ** (len(vae["block_out_channels"]) - 1)
        size_px = int(unet["sample_size"]) * vae_scale_factor
        prediction_type = predictions.told_by_scheduler(path.name, scheduler)
        zero_snr = bool(scheduler.get("rescale_betas_zero_snr", False))
    except FileNotFoundError as error:
        missing = Path(error.filename).relative_to(path)
        raise ModelError(
            f"{path} is not a complete diffusers model: {missing} is missing. "
            "Choose the folder that holds model_index.json."
        ) from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ModelError(
            f"The configuration of the model in {path} is damaged: download it again."
        ) from error
    if vae.get("latents_mean") is not None or "EDM" in str(scheduler.get("_class_name")):
        raise _refusal(path.name, "a Playground 2.5 model")
    _require_plain_parts(path, has_weights)
    is_linear = bool(unet.get("use_linear_projection")) or pipeline == XL_PIPELINE
    family = next(
        family.name
        for family in FAMILIES.values()
        if (family.pipeline, family.linear_projection) == (pipeline, is_linear)
    )
    predictions.require_usable(path.name, family, prediction_type)
    licence = _readme_licence(path / "README.md")
    return ModelInfo(path, path.name, family, prediction_type, size_px, zero_snr, licence=licence)


def _transformer_folder(path: Path, index: dict[str, Any], has_weights: bool) -> ModelInfo:
    scheduler = weights.read_json(path / "scheduler" / "scheduler_config.json")
    family = recognising.family_of_folder(path, index["_class_name"])
    kind = predictions.told_by_scheduler(path.name, scheduler, is_moved=bool(family.shift))
    predictions.require_usable(path.name, family.name, kind)
    _require_plain_parts(path, has_weights)
    is_distilled = bool(index.get("is_distilled", False))
    return ModelInfo(
        path,
        path.name,
        family.name,
        kind,
        family.size_px,
        note=DISTILLED if is_distilled else "",
        licence=_readme_licence(path / "README.md"),
        is_distilled=is_distilled,
    )


def _require_plain_parts(path: Path, has_weights: bool) -> None:
    for part, stem in hub.PARTS.items():
        if has_weights and (path / part).is_dir():
            _require_plain(path.name, weights.component_header(path / part, stem)[0])


def _readme_licence(readme: Path) -> str:
    """The licence in the head of a model card of the hub, such as `openrail++`; "" without one."""
    try:
        with readme.open("rb") as file:
            text = file.read(MOST_README).decode("utf-8", "replace")
    except OSError:
        return ""
    head = text.split("\n---", 1)[0] if text.startswith("---") else ""
    for field in ("license_name", "license"):  # the first where the second is "other"
        if found := re.search(rf"^{field}:[ \t]*[\"']?([^\"'\s#]+)", head, re.MULTILINE):
            return found[1][:MOST_LICENCE]
    return ""


def _other_pipeline(path: Path, pipeline: Any) -> ModelError:
    if not isinstance(pipeline, str):
        return ModelError(
            f"{path.name} needs a program of its own, and such programs are not run. {CAN}"
        )
    for start, what in OTHER_PIPELINES:
        if start in pipeline:
            return _refusal(path.name, what)
    return ModelError(f"{path.name} is a {pipeline}, which is not supported. {CAN}")


# --- a single file -------------------------------------------------------------------------------


def _inspect_checkpoint(path: Path) -> ModelInfo:
    header = weights.read_header(path)
    family = _checkpoint_family(path, header)
    _require_plain(path.name, header)
    _require_depths(path.name, header, family)
    prediction_type, note = predictions.told_by_file(path, header, family)
    vae = _companion_vae(path)
    info = ModelInfo(
        path,
        path.stem,
        family,
        prediction_type,
        family_of(family, prediction_type).size_px,
        zero_snr="ztsnr" in header.tensors,
        vae=vae,
        note=" ".join(filter(None, (note, _vae_note(path, vae)))),
        licence=" ".join(header.metadata.get(LICENCE, "").split())[:MOST_LICENCE],
    )
    from studio.models.checkpoint import require_whole  # imports this module

    require_whole(info)
    return info


_BLOCK = re.compile(
    re.escape(UNET) + r"((?:in|out)put_blocks\.\d+|middle_block)\.1\.transformer_blocks\.(\d+)\."
)


def _require_depths(name: str, header: Header, family: FamilyName) -> None:
    blocks: dict[str, set[str]] = {}
    for key in header.tensors:
        if match := _BLOCK.match(key):
            blocks.setdefault(match[1], set()).add(match[2])
    facts = family_of(family)
    if sorted(map(len, blocks.values())) != sorted(facts.attention_depths):
        raise ModelError(
            f"{name} does not have the layers of {facts.words}: shortened models, such as SSD-1B, "
            f"Vega and BK-SDM, cannot be tuned here. {CAN}"
        )


# Endings of the scales of quantized weights.
SCALES = (
    ".scale_weight",
    ".weight_scale",
    ".weight_scale_2",
    ".input_scale",
    ".scale_input",
    "scaled_fp8",
    ".comfy_quant",
    ".absmax",
    ".qweight",
    ".scales",
    ".SCB",
)
NO_NUMBERS = ("I8", "U8", "I16", "BOOL")  # types of quantized weights
# Names of marker tensors of supported schedules, and a pattern for those of others.
MARKERS = ("v_pred", "ztsnr", "denoiser.sigmas", "denoiser.log_sigmas")
MARKER = re.compile(r"edm|sigma|pred|snr|flow|schedul")


def _require_plain(name: str, header: Header) -> None:
    """Refuse quantized weights, distilled models and unknown schedules, each with its own words."""
    for key, entry in header.tensors.items():
        is_packed = key.endswith(".weight") and entry.dtype in NO_NUMBERS
        if key.endswith(SCALES) or is_packed:
            raise ModelError(
                f"{name} is quantized, for drawing only (see {key[:120]}). To learn, choose the "
                "model with plain weights, such as fp16 or fp32."
            )
        if key.endswith("time_embed.cond_proj.weight") or key == "time_embedding.cond_proj.weight":
            raise _refusal(name, "an LCM, made to draw in a few steps")
        if key.startswith("edm_mean"):
            raise _refusal(name, "a Playground 2.5 model")
        if key.startswith("edm_vpred."):
            raise _refusal(name, "a CosXL model")
        is_marker = key.count(".") < 2 and MARKER.search(key.lower())
        if is_marker and key not in MARKERS:
            raise ModelError(
                f"{name} was trained with a noise schedule that is not supported (see "
                f"{key[:120]}). {CAN}"
            )


def _vae_name(path: Path) -> str:
    return f"{path.stem}{VAE_ENDING}"


def _companion_vae(path: Path) -> Path | None:
    """The VAE file that belongs to a checkpoint by A1111's rule. Raises ModelError if unusable."""
    vae = path.with_name(_vae_name(path))
    if not vae.exists():
        return None
    tensors = weights.read_header(vae).tensors
    names = {name.removeprefix(VAE): entry.shape for name, entry in tensors.items()}
    if any(name.startswith("encoder.down_blocks.") for name in names):
        raise ModelError(
            f"{vae.name} is a VAE in the diffusers format. Put one in the original format beside "
            f"{path.name}, or remove it."
        )
    first = names.get("decoder.conv_in.weight", ())
    if len(first) != 4 or not any(name.startswith("encoder.") for name in names):
        raise ModelError(
            f"{vae.name}, beside {path.name}, is not a complete VAE: remove it, or download it "
            "again."
        )
    if first[1] != 4:
        raise ModelError(
            f"{vae.name}, beside {path.name}, is a VAE for another kind of model: remove it."
        )
    return vae


def _vae_note(path: Path, vae: Path | None) -> str:
    if vae is not None:
        return f"It draws with the VAE beside it, {vae.name}."
    for ending in (".vae.pt", ".vae.ckpt"):
        pickled = path.with_name(f"{path.stem}{ending}")
        if pickled.exists():
            return (
                f"It draws with its own VAE. {pickled.name} beside it can hide a program and is "
                f"not opened: to use it, convert it to {_vae_name(path)}."
            )
    return ""


def _checkpoint_family(path: Path, header: Header) -> FamilyName:
    """The family by the names of the tensors. Raises ModelError for everything else."""
    keys = header.tensors.keys()

    def has(*starts: str) -> bool:
        return any(key.startswith(starts) for key in keys)

    if any(".lora_" in key or key.endswith((".hada_w1_a", ".lokr_w1")) for key in keys):
        raise ModelError(
            f"{path.name} is a LoRA, not a base model: choose the model it is for. A session with "
            "that model can start from the LoRA."
        )
    if has(f"{UNET}joint_blocks.", "joint_blocks."):
        raise _refusal(path.name, "a Stable Diffusion 3 model")
    if any(key.removeprefix(UNET).startswith("single_stream_modulation.") for key in keys):
        raise ModelError(
            f"{path.name} is the network of a FLUX.2 model alone, without text encoder and VAE. "
            "For now klein is used as a diffusers folder with all parts: download it by its name, "
            "such as black-forest-labs/FLUX.2-klein-base-4B."
        )
    if has(f"{UNET}double_blocks.", "double_blocks."):
        raise _refusal(path.name, "a FLUX model")
    if has("control_model.", "controlnet_", "input_hint_block."):
        raise _refusal(path.name, "a ControlNet")
    if "emb_params" in keys or "string_to_param" in keys or {"clip_g", "clip_l"} & keys:
        raise ModelError(f"{path.name} is a textual inversion, not a base model.")
    first = header.shape(f"{UNET}input_blocks.0.0.weight")
    if len(first) != 4:
        raise _incomplete(path, has)
    if has("conditioner.embedders.0.model."):
        raise _refusal(path.name, "the SDXL refiner")
    if first[1] == 9:
        raise _refusal(path.name, "an inpainting model")
    if first[1] != 4 and header.shape(f"{UNET}out.2.weight")[:1] == first[1:2]:
        raise _refusal(path.name, f"a model with a VAE of {first[1]} channels instead of 4")
    if first[1] != 4:
        raise _refusal(path.name, "a model that changes pictures by instruction")
    if not has(VAE) and not path.with_name(_vae_name(path)).exists():
        raise ModelError(
            f"{path.name} holds no VAE: choose a file with the whole model, or put a VAE beside it "
            f"as {_vae_name(path)}."
        )
    for family in reversed(FAMILIES.values()):
        last = family.text_encoders[-1]
        if isinstance(last, TextEncoder) and has(last.prefix):
            return family.name
    raise ModelError(f"{path.name} holds no text encoder: choose a file with the whole model.")


def _incomplete(path: Path, has: Any) -> ModelError:
    if has("input_blocks.0.0.", "down_blocks.0."):
        what = "only the UNet"
    elif has("decoder.conv_in.", "first_stage_model.decoder.conv_in."):
        what = "only a VAE"
    elif has("text_model.", "transformer.text_model."):
        what = "only a text encoder"
    else:
        return ModelError(f"{path.name} does not hold a Stable Diffusion model. {CAN}")
    return ModelError(f"{path.name} is {what}: choose a file with the whole model.")
