"""Layer names in LoRA files, derived from diffusers' names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from studio.families import FAMILIES
from studio.lora.format import LoraError


class Spelling(NamedTuple):
    """A name for a layer in a file.

    third: the layer is that third (0, 1, 2) of the outputs of a layer of this name, which is three
    in one; None: all of it.
    """

    name: str
    third: int | None = None


RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
TEXT = ("text_encoder", "text_encoder_2")  # diffusers' names of the text encoders
TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
}


def original_names(name: str) -> list[str]:
    """The names in the original layout of a layer of diffusers' UNet; [] if there is none. An
    upsampler has two possible names: with and without an attention before it."""
    if name in TOP:
        return [TOP[name]]
    parsed = re.fullmatch(r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.+)", name)
    if parsed is None:
        return []
    part, block, kind, index, rest = parsed.groups()
    block, index = int(block or 0), int(index)
    if kind == "resnets":
        rest = RESNET[rest]
    match part, kind:
        case "mid", "resnets":
            return [f"middle_block.{2 * index}.{rest}"]
        case "mid", _:
            return [f"middle_block.1.{rest}"]
        case "down", "downsamplers":
            return [f"input_blocks.{3 * block + 3}.0.op"]
        case "up", "upsamplers":
            return [f"output_blocks.{3 * block + 2}.{position}.conv" for position in (1, 2)]
        case "down", _:
            return [f"input_blocks.{3 * block + index + 1}.{int(kind == 'attentions')}.{rest}"]
        case _:
            return [f"output_blocks.{3 * block + index}.{int(kind == 'attentions')}.{rest}"]


def kohya_name(layer: str, family: str) -> str:
    """`lora_unet_` and the layer's name, for SDXL its name in the original layout; or
    `lora_te_`, `lora_te1_` or `lora_te2_` and the name of a text encoder's layer.

    layer: of the UNet, or `TEXT` and a layer of a text encoder. family: a key of `FAMILIES`.
    Raises LoraError.
    """
    encoder, _, rest = layer.partition(".")
    if encoder in TEXT:
        is_alone = len(FAMILIES[family].text_encoders) == 1
        number = "" if is_alone else TEXT.index(encoder) + 1
        return f"lora_te{number}_{rest.replace('.', '_')}"
    names = original_names(layer) if FAMILIES[family].lora.original else [layer]
    if not names:
        raise LoraError(f"{layer} is not a layer of a supported UNet.")
    # SDXL's upsamplers stand behind attentions, which is the last of their two possible names.
    return "lora_unet_" + names[-1].replace(".", "_")


def diffusers_name(name: str) -> str | None:
    """A layer name from a file of diffusers or peft, old or new, as today's name in diffusers, such
    as `unet.conv_in`. None for names of other tools."""
    name = name.replace(".processor.", ".").replace("base_model.model.", "", 1)
    if name.startswith(("text_encoder.", "text_encoder_2.")):
        return re.sub(r"self_attn\.to_(q|k|v|out)$", r"self_attn.\1_proj", name)
    bare = name.removeprefix("transformer.")
    if bare.startswith(("transformer_blocks.", "single_transformer_blocks.")):
        return f"transformer.{bare}"
    bare = name.removeprefix("unet.")
    if not bare.startswith(("down_blocks.", "mid_block.", "up_blocks.", "conv_", "time_", "add_")):
        return None
    return f"unet.{re.sub('to_out$', 'to_out.0', bare)}"


def is_original(name: str) -> bool:
    """Whether a layer has its name of the model's own code, as newer families have it."""
    return name.startswith(("diffusion_model.", "base_model.model."))


def unet_spellings(layer: str) -> Iterator[str]:
    """All names in LoRA files for a layer of the UNet."""
    yield f"lora_unet_{layer.replace('.', '_')}"
    for spelling in {layer, layer.replace("to_out.0", "to_out")}:  # the second in old files
        for prefix in ("", "unet.", "base_model.model.", "unet.base_model.model."):
            yield f"{prefix}{spelling}"
    for original in original_names(layer):
        yield f"lora_unet_{original.replace('.', '_')}"
        yield f"diffusion_model.{original}"


def text_spellings(layer: str, number: int, count: int) -> Iterator[str]:
    """All names in LoRA files for a layer of text encoder `number` (from 1) of `count`."""
    tags = [f"lora_te{number}_", *(["lora_te_"] if count == 1 else [])]
    component = "text_encoder." if number == 1 else f"text_encoder_{number}."
    bare = layer.removeprefix("text_model.")  # a level that newer transformers do not have
    for tag in tags:
        yield f"{tag}text_model_{bare.replace('.', '_')}"
        yield f"{tag}{bare.replace('.', '_')}"
    # Old files of diffusers use the UNet's names for these layers.
    old = re.sub(r"self_attn\.([qkv]|out)_proj", r"self_attn.to_\1", bare)
    for spelling in {bare, old}:
        yield f"{component}text_model.{spelling}"
        yield f"{component}{spelling}"
