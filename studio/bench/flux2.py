"""Models of FLUX.2 klein with random weights, the true blocks and module names, and small widths;
and the same weights by the names of the original code.

As in `families`, the renaming is written by hand from the rules of the layout, so that it and
diffusers' check each other.
"""

from __future__ import annotations

import re

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import Qwen2TokenizerFast, Qwen3Config, Qwen3ForCausalLM

FAMILIES = ("flux2_klein_4b", "flux2_klein_9b")
BLOCKS = {"flux2_klein_4b": (5, 20), "flux2_klein_9b": (8, 24)}
HEADS = {"flux2_klein_4b": 24, "flux2_klein_9b": 32}  # of 128 channels
TEXT_WIDTHS = {"flux2_klein_4b": 2560, "flux2_klein_9b": 4096}
NARROW_TEXT_WIDTHS = {"flux2_klein_4b": 16, "flux2_klein_9b": 24}
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
        num_attention_heads=2 if narrow else HEADS[family],
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
