"""Models of FLUX.2 klein with random weights, the true blocks and module names, and small widths;
and the same weights by the names of the original code.

    python -m studio.bench.flux2

counts what the true network takes: its weights, and what autograd keeps for a picture of 1024 px,
with and without gradient checkpointing. Nothing is computed, so it needs no memory. The matrices of
attention are left out, which the fused kernels of a GPU never store.

As in `families`, the renaming is written by hand from the rules of the layout, so that it and
diffusers' check each other.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import Qwen2TokenizerFast, Qwen3Config, Qwen3ForCausalLM

from studio.lora.flux2 import TOP
from studio.models.adapters import Adapters
from studio.models.inspecting import ModelInfo
from studio.settings import TrainingSettings

FAMILIES = ("flux2_klein_4b", "flux2_klein_9b")
BLOCKS = {"flux2_klein_4b": (5, 20), "flux2_klein_9b": (8, 24)}
HEADS = {"flux2_klein_4b": 24, "flux2_klein_9b": 32}  # of 128 channels
NARROW_HEADS = {"flux2_klein_4b": 2, "flux2_klein_9b": 3}  # of 16 channels
TEXT_WIDTHS = {"flux2_klein_4b": 2560, "flux2_klein_9b": 4096}
NARROW_TEXT_WIDTHS = {"flux2_klein_4b": 16, "flux2_klein_9b": 24}
TOKENS = 512  # of every prompt
TEXT_LAYERS = 28  # the last whose states are read is number 27

# Of Qwen3, without its parts for tools and answers.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}{%- endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")


def make_pipeline(family: str, is_distilled: bool = False) -> Flux2KleinPipeline:
    """A complete seeded model of small width."""
    torch.manual_seed(len(family))
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=make_vae().eval(),
        text_encoder=make_text_encoder(family).eval(),
        tokenizer=make_tokenizer(),
        transformer=make_transformer(family).eval(),
        is_distilled=is_distilled,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_transformer(family: str, narrow: bool = True) -> Flux2Transformer2DModel:
    """With `narrow=False` at its true size of gigabytes."""
    double, single = BLOCKS[family]
    text = NARROW_TEXT_WIDTHS if narrow else TEXT_WIDTHS
    return Flux2Transformer2DModel(
        in_channels=16 if narrow else 128,
        num_layers=double,
        num_single_layers=single,
        num_attention_heads=(NARROW_HEADS if narrow else HEADS)[family],
        attention_head_dim=16 if narrow else 128,
        joint_attention_dim=3 * text[family],
        timestep_guidance_channels=16 if narrow else 256,
        axes_dims_rope=(4, 4, 4, 4) if narrow else (32, 32, 32, 32),
        guidance_embeds=False,
    )


def make_vae() -> AutoencoderKLFlux2:
    """With statistics of its latents that are not those of noise."""
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=64,
    )
    vae.bn.running_mean.normal_(std=0.3)
    vae.bn.running_var.uniform_(0.5, 2.0)
    return vae


def make_text_encoder(family: str) -> Qwen3ForCausalLM:
    width = NARROW_TEXT_WIDTHS[family]
    config = Qwen3Config(
        vocab_size=256 + len(SPECIAL),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config)


def make_tokenizer() -> Qwen2TokenizerFast:
    """Of bytes, with the template of a chat."""
    words = (*SPECIAL, *sorted(ByteLevel.alphabet()))
    tokenizer = Qwen2TokenizerFast(
        vocab={word: number for number, word in enumerate(words)},
        merges=[],
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


# --- the original layout -------------------------------------------------------------------------

DOUBLE = {
    "attn.to_out.0.weight": "img_attn.proj.weight",
    "attn.to_add_out.weight": "txt_attn.proj.weight",
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
    "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "ff.linear_in.weight": "img_mlp.0.weight",
    "ff.linear_out.weight": "img_mlp.2.weight",
    "ff_context.linear_in.weight": "txt_mlp.0.weight",
    "ff_context.linear_out.weight": "txt_mlp.2.weight",
}
SINGLE = {
    "attn.to_qkv_mlp_proj.weight": "linear1.weight",
    "attn.to_out.weight": "linear2.weight",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
}
FUSED = {
    "img_attn": ("to_q", "to_k", "to_v"),
    "txt_attn": ("add_q_proj", "add_k_proj", "add_v_proj"),
}


def original_tensors(transformer: Flux2Transformer2DModel) -> dict[str, Tensor]:
    """A transformer's weights by their original names; q, k and v are one there."""
    state, tensors = transformer.state_dict(), {}
    for key, value in state.items():
        stem, _, end = key.rpartition(".")
        if stem in TOP:
            tensors[f"{TOP[stem]}.{end}"] = value
        elif stem == "norm_out.linear":  # shift before scale there
            tensors["final_layer.adaLN_modulation.1.weight"] = torch.cat(value.chunk(2)[::-1])
        elif match := re.fullmatch(r"single_transformer_blocks\.(\d+)\.(.+)", key):
            tensors[f"single_blocks.{match[1]}.{SINGLE[match[2]]}"] = value
        elif (match := re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", key)) and match[
            2
        ] in DOUBLE:
            tensors[f"double_blocks.{match[1]}.{DOUBLE[match[2]]}"] = value
    for block in range(transformer.config.num_layers):
        for stream, names in FUSED.items():
            parts = [state[f"transformer_blocks.{block}.attn.{name}.weight"] for name in names]
            tensors[f"double_blocks.{block}.{stream}.qkv.weight"] = torch.cat(parts)
    return {key: value.detach().contiguous() for key, value in tensors.items()}


# --- memory --------------------------------------------------------------------------------------

SIDE = 1024 // 16  # places along a side of a latent


def kept_gb(transformer: Flux2Transformer2DModel) -> float:
    """What autograd keeps of one latent of 1024 px in bfloat16, for a network on the meta device
    whose adapter is in training."""
    weights = {StorageWeakRef(weight.untyped_storage()) for weight in transformer.parameters()}
    kept: dict[StorageWeakRef, Tensor] = {}  # each storage once

    def keep(tensor: Tensor) -> Tensor:
        storage = StorageWeakRef(tensor.untyped_storage())
        tokens = SIDE**2 + TOKENS
        if storage not in weights and tensor.shape[-2:] != (tokens, tokens):
            kept[storage] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    width = transformer.config.joint_attention_dim
    with torch.device("meta"), hooks:
        transformer(
            hidden_states=torch.zeros(1, SIDE**2, 128, dtype=torch.bfloat16),
            encoder_hidden_states=torch.zeros(1, TOKENS, width, dtype=torch.bfloat16),
            timestep=torch.zeros(1),
            img_ids=torch.zeros(SIDE**2, 4),
            txt_ids=torch.zeros(TOKENS, 4),
        )
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 1e9


def main() -> None:
    for family in FAMILIES:
        with torch.device("meta"):
            transformer = make_transformer(family, narrow=False).bfloat16().requires_grad_(False)
            numbers = sum(parameter.numel() for parameter in transformer.parameters())
            info = ModelInfo(Path(), family, family, "flow_prediction", 1024)
            Adapters(transformer, info, "").new(TrainingSettings())
        plain = kept_gb(transformer)
        transformer.enable_gradient_checkpointing()
        transformer.train()
        print(
            f"{family}: {numbers / 1e9:.1f} B parameters, {2 * numbers / 1e9:.1f} GB; kept for a "
            f"picture of 1024 px: {plain:.1f} GB, or {kept_gb(transformer):.2f} GB and one block "
            "with gradient checkpointing"
        )


if __name__ == "__main__":
    main()
