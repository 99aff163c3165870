"""Names of FLUX.2's layers, in diffusers and in its own code.

In the own code, the three layers q, k and v of a stream are one, with the three below one another;
in diffusers each is by itself. So a LoRA of the one is three of the other with a common `down`, and
three LoRAs are one of three times the rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch

from studio.lora.format import LowRank
from studio.lora.names import Spelling

TOP = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "proj_out": "final_layer.linear",
}
BLOCKS = {
    "transformer_blocks": (
        "double_blocks",
        {
            "attn.to_q": ("img_attn.qkv", 0),
            "attn.to_k": ("img_attn.qkv", 1),
            "attn.to_v": ("img_attn.qkv", 2),
            "attn.to_out.0": ("img_attn.proj", None),
            "attn.add_q_proj": ("txt_attn.qkv", 0),
            "attn.add_k_proj": ("txt_attn.qkv", 1),
            "attn.add_v_proj": ("txt_attn.qkv", 2),
            "attn.to_add_out": ("txt_attn.proj", None),
            "ff.linear_in": ("img_mlp.0", None),
            "ff.linear_out": ("img_mlp.2", None),
            "ff_context.linear_in": ("txt_mlp.0", None),
            "ff_context.linear_out": ("txt_mlp.2", None),
        },
    ),
    "single_transformer_blocks": (
        "single_blocks",
        {"attn.to_qkv_mlp_proj": ("linear1", None), "attn.to_out": ("linear2", None)},
    ),
}
_LAYER = re.compile(rf"({'|'.join(BLOCKS)})\.(\d+)\.(.+)")
DIFFUSERS = ("", "transformer.", "diffusion_model.", "base_model.model.")
ORIGINAL = ("diffusion_model.", "base_model.model.", "")
FLAT = ("lora_transformer_", "lora_unet_", "lycoris_")  # dots are underscores after these


def is_layer(name: str) -> bool:
    """Whether this is diffusers' name of a layer of FLUX.2's network."""
    return bool(_LAYER.fullmatch(name)) or name in TOP or name.startswith("norm_out.")


def original(layer: str) -> Spelling | None:
    """The name in the own code of a layer by diffusers' name; None if there is none that a LoRA
    could change alike."""
    if layer in TOP:
        return Spelling(TOP[layer])
    match = _LAYER.fullmatch(layer)
    if match is None:
        return None
    block, names = BLOCKS[match[1]]
    found = names.get(match[3])
    return found and Spelling(f"{block}.{match[2]}.{found[0]}", found[1])


def spellings(layer: str) -> Iterator[Spelling]:
    """All names in LoRA files for a layer."""
    for prefix in DIFFUSERS:
        yield Spelling(f"{prefix}{layer}")
    flat = [Spelling(layer)]
    if own := original(layer):
        flat.append(own)
        for prefix in ORIGINAL:
            yield Spelling(f"{prefix}{own.name}", own.third)
    for name, third in flat:
        for prefix in FLAT:
            yield Spelling(f"{prefix}{name.replace('.', '_')}", third)


def in_original_names(adapter: Mapping[str, LowRank]) -> dict[str, LowRank]:
    """The same changes by the names of the own code, each with an alpha equal to its rank.

    adapter: by diffusers' names. Raises KeyError for a layer that the own code does not have.
    """
    found: dict[str, dict[int | None, LowRank]] = {}
    for layer, part in adapter.items():
        own = original(layer)
        if own is None:
            raise KeyError(layer)
        whole = LowRank(part.down, part.up * part.scale, float(part.rank))
        found.setdefault(own.name, {})[own.third] = whole
    return {
        f"diffusion_model.{name}": parts[None] if None in parts else _stacked(parts)
        for name, parts in found.items()
    }


def _stacked(parts: Mapping[int | None, LowRank]) -> LowRank:
    """One LoRA of the three layers below one another; a layer without a part is not changed."""
    rows = next(iter(parts.values())).up.shape[0]
    thirds = sorted(parts.items())
    downs = [part.down for _, part in thirds]
    is_shared = all(torch.equal(down, downs[0]) for down in downs[1:])
    down = downs[0] if is_shared else torch.cat(downs)
    up = down.new_zeros(3 * rows, down.shape[0])
    column = 0
    for third, part in thirds:
        up[third * rows : (third + 1) * rows, column : column + part.rank] = part.up
        column += 0 if is_shared else part.rank
    return LowRank(down, up, float(down.shape[0]))
