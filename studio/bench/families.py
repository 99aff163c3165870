"""Models of every family with random weights and the true module names, at true or small widths;
and the same models as single files in the original layout.

The renaming is the inverse of diffusers', written by hand from the rules of the layout, so that the
two check each other. For the same reason the shapes here do not come from the table of families.
`bench readers` compares the names with other programs'.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from studio.models import tokenizer
from studio.models.parts import sd_scheduler

FAMILIES = ("sd1", "sd2", "sd2_v", "sdxl")  # and "sdxl_rf", which has the layers of "sdxl"
# In the `.yaml` beside a single file: random weights do not reveal the prediction type.
PARAMETERIZATIONS = {"sd2_v": "v", "sdxl_rf": "flow"}
TEXT_WIDTH = 64
XL_WIDTHS = (64, 128)  # of SDXL's two text encoders


def make_pipeline(
    family: str, narrow: bool = True, dtype: torch.dtype = torch.float32
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """A complete seeded model; with `narrow=False` at its true size of gigabytes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # avoids a second copy in another type
    try:
        return _pipeline(family, narrow)
    finally:
        torch.set_default_dtype(before)


def _pipeline(family: str, narrow: bool) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    torch.manual_seed(len(family))
    is_xl = family.startswith("sdxl")
    common = {
        "unet": make_unet(family, narrow).eval(),
        "vae": make_vae(is_xl, narrow).eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)
        if family == "sdxl_rf"
        else sd_scheduler("v_prediction" if family == "sd2_v" else "epsilon"),
        "text_encoder": make_clip(family, narrow).eval(),
        "tokenizer": tokenizer.build(pad="!" if family.startswith("sd2") else tokenizer.END),
        "feature_extractor": None,
    }
    if is_xl:
        pipeline = StableDiffusionXLPipeline(
            **common,
            text_encoder_2=make_open_clip(narrow).eval(),
            tokenizer_2=tokenizer.build(pad="!"),
        )
    else:
        pipeline = StableDiffusionPipeline(
            **common, safety_checker=None, requires_safety_checker=False
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class FlowScheduler(FlowMatchEulerDiscreteScheduler):
    """diffusers' scheduler of flows, with what its pipelines of UNets ask of a scheduler."""

    init_noise_sigma = 1.0

    def scale_model_input(self, sample: Tensor, _: Tensor) -> Tensor:
        return sample


def drawing_scheduler(scheduler: SchedulerMixin) -> DDIMScheduler | FlowScheduler:
    """diffusers' own that draws as the studio does at eta 0, for a pipeline with this scheduler."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return FlowScheduler.from_config(scheduler.config)
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False)


def make_unet(family: str, narrow: bool = True) -> UNet2DConditionModel:
    """A UNet; with `narrow=False` at its true size."""
    is_xl, is_sd1 = family.startswith("sdxl"), family == "sd1"
    plain, crossed = "DownBlock2D", "CrossAttnDownBlock2D"
    down = (plain, crossed, crossed) if is_xl else (crossed, crossed, crossed, plain)
    widths = (320, 640, 1280) if is_xl else (320, 640, 1280, 1280)
    cross = 2048 if is_xl else 768 if is_sd1 else 1024
    pooled, time = 1280, 256
    if narrow:
        widths = (64, 64, 128) if is_xl else (32, 64, 64, 64) if is_sd1 else (64, 64, 128, 128)
        cross = sum(XL_WIDTHS) if is_xl else TEXT_WIDTH
        pooled, time = XL_WIDTHS[1], 32
    options = {}
    if is_xl:
        options = {
            "transformer_layers_per_block": (1, 2, 10),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": time,
            "projection_class_embeddings_input_dim": pooled + 6 * time,
        }
    return UNet2DConditionModel(
        sample_size=8 if narrow else 64,
        block_out_channels=widths,
        layers_per_block=2,
        down_block_types=down,
        up_block_types=[name.replace("Down", "Up") for name in reversed(down)],
        cross_attention_dim=cross,
        attention_head_dim=8 if is_sd1 else [width // 64 for width in widths],
        use_linear_projection=not is_sd1,
        upcast_attention=family.startswith("sd2"),
        **options,
    )


def make_vae(is_xl: bool, narrow: bool = True) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 32, 32, 32) if narrow else (128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=64 if narrow else 1024 if is_xl else 512,
        scaling_factor=0.13025 if is_xl else 0.18215,
        force_upcast=is_xl,
    )


def make_clip(family: str, narrow: bool = True) -> CLIPTextModel:
    """SD 1's and SDXL's first encoder, or SD 2's."""
    is_open = family.startswith("sd2")
    width = TEXT_WIDTH if narrow else 1024 if is_open else 768
    layers = 23 if is_open else 3 if narrow else 12
    return CLIPTextModel(_text_config(width, layers, is_open))


def make_open_clip(narrow: bool = True) -> CLIPTextModelWithProjection:
    """SDXL's second encoder."""
    width, layers = (XL_WIDTHS[1], 3) if narrow else (1280, 32)
    return CLIPTextModelWithProjection(_text_config(width, layers, True))


def _text_config(width: int, layers: int, is_open: bool) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49_408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        hidden_act="gelu" if is_open else "quick_gelu",
        projection_dim=width,
        bos_token_id=49_406,
        eos_token_id=49_407,
    )


# --- the original layout -------------------------------------------------------------------------


def write_checkpoint(
    path: Path, pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline, family: str
) -> Path:
    """The model as one file, with the names of the original code."""
    tensors = {f"model.diffusion_model.{k}": v for k, v in unet_tensors(pipeline.unet).items()}
    tensors |= {f"first_stage_model.{k}": v for k, v in vae_tensors(pipeline.vae).items()}
    clip = {f"text_model.{k}": v for k, v in pipeline.text_encoder.state_dict().items()}
    match family:
        case "sd1":
            tensors |= {f"cond_stage_model.transformer.{k}": v for k, v in clip.items()}
            # a buffer of real files
            tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = (
                torch.arange(77)[None]
            )
        case "sdxl" | "sdxl_rf":
            tensors |= {f"conditioner.embedders.0.transformer.{k}": v for k, v in clip.items()}
            second = pipeline.text_encoder_2.state_dict()
            tensors |= {
                f"conditioner.embedders.1.model.{k}": v
                for k, v in open_clip_tensors(second).items()
            }
            tensors["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
        case _:
            # the original has one more layer, which is never used
            last = {
                k.replace(".22.", ".23."): torch.randn_like(v)
                for k, v in clip.items()
                if ".22." in k
            }
            width = pipeline.text_encoder.config.hidden_size
            tensors |= {
                f"cond_stage_model.model.{k}": v for k, v in open_clip_tensors(clip | last).items()
            }
            tensors["cond_stage_model.model.text_projection"] = torch.eye(width)
    save_file({key: value.detach().contiguous() for key, value in tensors.items()}, path)
    return path


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_tensors(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """A UNet's weights by their original names."""
    has_attention = [name.startswith("Cross") for name in unet.config.up_block_types]
    return {_unet_name(key, has_attention): value for key, value in unet.state_dict().items()}


def _unet_name(key: str, up_has_attention: list[bool]) -> str:
    for ours, theirs in TOP.items():
        if key.startswith(f"{ours}."):
            return key.replace(ours, theirs, 1)
    match = re.fullmatch(r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.+)", key)
    part, block, kind, index, rest = (
        match[1],
        int(match[2] or 0),
        match[3],
        int(match[4]),
        match[5],
    )
    if kind == "resnets":
        name, end = rest.rsplit(".", 1)
        rest = f"{RESNET[name]}.{end}"
    match part, kind:
        case "mid", "resnets":
            return f"middle_block.{2 * index}.{rest}"
        case "mid", _:
            return f"middle_block.1.{rest}"
        case "down", "downsamplers":
            return f"input_blocks.{3 * block + 3}.0.{rest.replace('conv', 'op')}"
        case "up", "upsamplers":
            position = 2 if up_has_attention[block] else 1
            return f"output_blocks.{3 * block + 2}.{position}.{rest}"
        case "down", _:
            return f"input_blocks.{3 * block + index + 1}.{int(kind == 'attentions')}.{rest}"
        case _:
            return f"output_blocks.{3 * block + index}.{int(kind == 'attentions')}.{rest}"


def vae_tensors(vae: AutoencoderKL) -> dict[str, Tensor]:
    """A VAE's weights by their original names; the attention's are convolutions there."""
    tensors = {}
    for key, value in vae.state_dict().items():
        name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block", name)
        name = re.sub(
            r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name
        )
        if "attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1")
            for ours, theirs in (("to_out.0", "proj_out"), ("group_norm", "norm")):
                name = name.replace(ours, theirs)
            name = re.sub(r"to_([qkv])\.", r"\1.", name)
        is_linear = "attentions.0.to_" in key and value.ndim == 2
        tensors[name] = value[:, :, None, None] if is_linear else value
    return tensors


def open_clip_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP text model's weights (transformers' names) by OpenCLIP's names."""
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix("text_model.")
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name)
        if match is None:
            names = {
                "embeddings.token_embedding.weight": "token_embedding.weight",
                "embeddings.position_embedding.weight": "positional_embedding",
                "final_layer_norm.weight": "ln_final.weight",
                "final_layer_norm.bias": "ln_final.bias",
                "text_projection.weight": "text_projection",
            }
            tensors[names[name]] = value.T if name == "text_projection.weight" else value
            continue
        block, rest = f"transformer.resblocks.{match[1]}", match[2]
        if re.fullmatch(r"self_attn\.[kv]_proj\..+", rest):
            continue  # with q
        if rest.startswith("self_attn.q_proj."):
            parts = [state[key.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            tensors[f"{block}.attn.in_proj_{rest.rsplit('.', 1)[1]}"] = torch.cat(parts)
            continue
        for ours, theirs in (
            ("self_attn.out_proj", "attn.out_proj"),
            ("layer_norm", "ln_"),
            ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"),
        ):
            rest = rest.replace(ours, theirs)
        tensors[f"{block}.{rest}"] = value
    return tensors
