"""Loading of a single file in the original layout of Stability AI and CompVis.

Widths and depths come from the weights' shapes; everything else (heads, activations, the VAE's
scale, the noise schedule) comes from the table of families. So loading needs no internet, and a
model of reduced width loads too. diffusers' own functions rename the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Set
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from studio.families import CROSSED, TextEncoder
from studio.models import tokenizer
from studio.models.inspecting import UNET, VAE, ModelInfo
from studio.models.parts import Parts, default_scheduler
from studio.weights import ModelError, read_header

HEAD_WIDTH = 64  # channels of an attention head in families without a fixed number of heads

Weights = Mapping[str, Tensor]


def load_checkpoint(info: ModelInfo, dtype: torch.dtype) -> Parts:
    """The modules of an inspected model. Raises ModelError, KeyError, IndexError or RuntimeError if
    the file is not built like its family."""
    unet, vae, text_encoders = _modules(info, load_file, partial(filled, dtype=dtype))
    return Parts(
        network=unet,
        vae=vae,
        text_encoders=text_encoders,
        tokenizers=[tokenizer.build(pad=encoder.pad) for encoder in info.facts.text_encoders],
        scheduler=default_scheduler(info),
        zero_unconditional=info.facts.zero_unconditional,
    )


def require_whole(info: ModelInfo) -> None:
    """Check a file as `load_checkpoint` would, without reading its weights.

    Raises ModelError if a weight is missing, has another shape, or belongs to no layer.
    """
    try:
        _modules(info, _shapes, _require_fit)
    except ModelError:
        raise
    except Exception as error:  # the conversion raises many kinds for other layouts
        raise ModelError(
            f"The weights of {info.path.name} do not fit together like those of {info.words}: a "
            "damaged or changed network cannot be tuned here. Download it again, or choose the "
            "model that it was made from."
        ) from error


def _modules(
    info: ModelInfo, read: Callable[[Path], dict[str, Tensor]], fill: Callable[..., Any]
) -> tuple[Any, Any, list[Any]]:
    """UNet, VAE and text encoders: `read` gives the weights of a file, `fill` makes a module."""
    weights = read(info.path)
    if info.vae is not None:
        weights = {k: v for k, v in weights.items() if not k.startswith(VAE)}
        weights |= _vae_weights(read(info.vae))
    config = unet_config(weights, info)
    unet = fill(UNet2DConditionModel, config, convert_ldm_unet_checkpoint(dict(weights), config))
    texts = [_text_encoder(encoder, weights, fill) for encoder in info.facts.text_encoders]
    return unet, _vae(weights, info, fill), texts


def _shapes(path: Path) -> dict[str, Tensor]:
    """Meta tensors with the shapes of a file's tensors."""
    with torch.device("meta"):
        return {name: torch.empty(entry.shape) for name, entry in read_header(path).tensors.items()}


def _require_fit(
    kind: type[nn.Module], config: Mapping[str, Any], state: Weights, may_hold_more: bool = False
) -> None:
    """Check names and shapes as `filled` does, without making a module."""
    expected = _expected(kind, json.dumps(config))
    _require_names(expected.keys(), state)
    if not may_hold_more and (odd := sorted(state.keys() - expected.keys())):
        raise RuntimeError(f"{odd[0]} belongs to no layer")
    for name, shape in expected.items():
        if state[name].shape != shape:
            raise RuntimeError(f"{name} has another shape")


@lru_cache(maxsize=32)  # most models of a family have the same configuration
def _expected(kind: type[nn.Module], config: str) -> dict[str, torch.Size]:
    module = _empty(kind, json.loads(config))
    return {name: value.shape for name, value in module.state_dict().items()}


def _vae_weights(weights: Weights) -> dict[str, Tensor]:
    """The weights of a VAE's own file, under their names in a checkpoint."""
    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    named = {name.removeprefix(VAE): value for name, value in weights.items()}
    return {f"{VAE}{name}": value for name, value in named.items() if name.startswith(parts)}


def unet_config(weights: Weights, info: ModelInfo) -> dict[str, Any]:
    """diffusers' configuration of the UNet."""
    family = info.facts
    down = family.down_blocks
    widths = [
        weights[f"{UNET}input_blocks.{3 * block + 1}.0.in_layers.2.weight"].shape[0]
        for block in range(len(down))
    ]
    first_attention = (
        f"{UNET}input_blocks.{3 * down.index(CROSSED) + 1}.1.transformer_blocks.0.attn2"
    )
    config = {
        "sample_size": info.size_px // 8,
        "in_channels": weights[f"{UNET}input_blocks.0.0.weight"].shape[1],
        "out_channels": weights[f"{UNET}out.2.weight"].shape[0],
        "block_out_channels": widths,
        "layers_per_block": 2,
        "down_block_types": down,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        "cross_attention_dim": weights[f"{first_attention}.to_k.weight"].shape[1],
        "attention_head_dim": family.heads or [width // HEAD_WIDTH for width in widths],
        "use_linear_projection": family.linear_projection,
        "upcast_attention": family.upcast_attention,
    }
    if family.transformer_layers:
        config["transformer_layers_per_block"] = list(family.transformer_layers)
    if family.takes_size:
        total = weights[f"{UNET}label_emb.0.0.weight"].shape[1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": _time_width(weights, info),
            "projection_class_embeddings_input_dim": total,
        }
    return config


def _time_width(weights: Weights, info: ModelInfo) -> int:
    """Width of the embedding of each of the six size numbers; the pooled text takes the rest."""
    total = weights[f"{UNET}label_emb.0.0.weight"].shape[1]
    last = info.facts.text_encoders[-1]
    pooled = weights[f"{last.prefix}text_projection"].shape[1]
    return (total - pooled) // 6


def _vae(weights: Weights, info: ModelInfo, fill: Callable[..., Any]) -> Any:
    try:
        config = vae_config(weights, info)
        state = convert_ldm_vae_checkpoint(dict(weights), config)
        return fill(AutoencoderKL, config, state)
    except (ModelError, KeyError, IndexError, RuntimeError) as error:
        if info.vae is None:
            raise
        raise ModelError(
            f"The VAE beside it, {info.vae.name}, is incomplete or of another kind: remove it, "
            "or download it again."
        ) from error


def vae_config(weights: Weights, info: ModelInfo) -> dict[str, Any]:
    """diffusers' configuration of the VAE."""
    widths = [
        weights[f"{VAE}encoder.down.{block}.block.0.conv1.weight"].shape[0] for block in range(4)
    ]
    family = info.facts
    return {
        "sample_size": family.vae_size_px,
        "block_out_channels": widths,
        "layers_per_block": 2,
        "latent_channels": weights[f"{VAE}decoder.conv_in.weight"].shape[1],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "scaling_factor": family.vae_scaling,
        "force_upcast": family.vae_upcast,
    }


def _text_encoder(encoder: TextEncoder, weights: Weights, fill: Callable[..., Any]) -> Any:
    if encoder.is_open_clip:
        own = {key: value for key, value in weights.items() if key.startswith(encoder.prefix)}
        width = _Width(own[f"{encoder.prefix}ln_final.weight"])
        state = convert_open_clip_checkpoint(width, own, encoder.prefix)
    else:
        state = convert_ldm_clip_checkpoint(dict(weights))
        # some fine-tuned models were saved without this level
        state = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in state.items()}
    config = _text_config(state, encoder.activation)
    if encoder.most_layers:
        config["num_hidden_layers"] = min(config["num_hidden_layers"], encoder.most_layers)
    if not encoder.has_projection:
        return fill(CLIPTextModel, config, _flat(state), may_hold_more=True)
    config["projection_dim"] = state["text_projection.weight"].shape[0]
    return fill(CLIPTextModelWithProjection, config, state, may_hold_more=True)


class _Width:
    """The one attribute of a text model that diffusers' conversion reads."""

    def __init__(self, norm: Tensor) -> None:
        self.config = type("Config", (), {"hidden_size": norm.shape[0]})


def _text_config(state: Weights, hidden_act: str) -> dict[str, Any]:
    vocabulary, width = state["text_model.embeddings.token_embedding.weight"].shape
    layers = "text_model.encoder.layers."
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": state[f"{layers}0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": 1
        + max(int(key.split(".")[3]) for key in state if key.startswith(layers)),
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "max_position_embeddings": state["text_model.embeddings.position_embedding.weight"].shape[
            0
        ],
        "hidden_act": hidden_act,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }


def _flat(state: Weights) -> dict[str, Tensor]:
    """Under the names of transformers' CLIPTextModel, which has no `text_model` level any more."""
    return {key.removeprefix("text_model."): value for key, value in state.items()}


def filled(
    kind: type[nn.Module],
    config: Mapping[str, Any],
    state: Weights,
    dtype: torch.dtype,
    may_hold_more: bool = False,
) -> nn.Module:
    """A module with these weights, made without a second copy of them in memory.

    Raises RuntimeError if a weight is missing, has another shape, or belongs to no layer.
    may_hold_more: ignore weights of no layer: text encoders come with buffers and unused layers.
    """
    module = _empty(kind, config)
    if may_hold_more:
        names = module.state_dict().keys()
        state = {key: value for key, value in state.items() if key in names}
    _require_names(module.state_dict().keys(), state)
    module.load_state_dict({key: value.to(dtype) for key, value in state.items()}, assign=True)
    return module


def _empty(kind: type[nn.Module], config: Mapping[str, Any]) -> nn.Module:
    with init_empty_weights():
        if issubclass(kind, CLIPTextModel | CLIPTextModelWithProjection):
            return kind(CLIPTextConfig(**config))
        return kind.from_config(dict(config))


def _require_names(names: Set[str], state: Weights) -> None:
    missing = sorted(names - state.keys())
    if missing:
        raise ModelError(f"The file is incomplete: the weights of {missing[0]} are missing.")
