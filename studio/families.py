"""Families of base models: one table with everything that differs between them.

A new family is one new entry. The table needs no library, so the web process can use it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

FamilyName = Literal["sd1", "sd2", "sdxl", "flux2_klein_4b", "flux2_klein_9b"]

SD_PIPELINE = "StableDiffusionPipeline"
XL_PIPELINE = "StableDiffusionXLPipeline"
KLEIN_PIPELINE = "Flux2KleinPipeline"
UNET_PREFIX = "model.diffusion_model."  # of the UNet's tensors in a single file
PLAIN, CROSSED = "DownBlock2D", "CrossAttnDownBlock2D"


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder of a family.

    part, tokenizer: its folders in a diffusers model. prefix: of its tensors in a single file.
    is_open_clip: OpenCLIP, else OpenAI's CLIP. pad: the token that fills a short prompt, as in its
    training. has_projection: it also gives a pooled vector of the whole prompt. most_layers: the
    number of its first layers in use; None: all.
    """

    part: str
    tokenizer: str
    prefix: str
    is_open_clip: bool = False
    has_projection: bool = False
    most_layers: int | None = None

    @property
    def pad(self) -> str:
        return "!" if self.is_open_clip else "<|endoftext|>"

    @property
    def activation(self) -> str:
        return "gelu" if self.is_open_clip else "quick_gelu"


@dataclass(frozen=True)
class ChatEncoder:
    """A language model that reads a prompt as a message of a chat.

    words: for the artist. model_type: transformers' name of its kind. part, tokenizer: its folders
    in a diffusers model. layers: whose states stand side by side, the embeddings being 0. tokens:
    every prompt is padded to so many, or cut.
    """

    words: str
    model_type: str
    part: str
    tokenizer: str
    layers: tuple[int, ...]
    tokens: int


@dataclass(frozen=True)
class Transformer:
    """A network of transformer blocks with two streams (text and picture), and with one.

    double, single: how many of each.
    """

    double: int
    single: int


# The layers that a LoRA changes, by the values of `TrainingSettings.layers`: ends of their names.
Layers = Mapping[str, tuple[str, ...]]

UNET_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
SHORTCUT = "conv_shortcut"
UNET_LAYERS: Layers = {
    "attention": UNET_ATTENTION,
    "attention_and_shortcuts": (*UNET_ATTENTION, SHORTCUT),
}
# Of both streams, and of the blocks with one, which have their feed-forward layers in the same.
FLUX2_ATTENTION = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("attn.to_qkv_mlp_proj", "attn.to_out"),
)
FLUX2_LAYERS: Layers = dict.fromkeys(UNET_LAYERS, FLUX2_ATTENTION)  # it has no shortcuts


@dataclass(frozen=True)
class LoraNames:
    """How other tools recognise the base model of a LoRA, and name its layers.

    base_version: ss_base_model_version; without it A1111 assumes SD 1. v2: ss_v2.
    architecture: modelspec.architecture. sd_version: in the .json beside the file.
    original: layers of the UNet have their names of the original checkpoint, instead of diffusers'.
    is_kohya: the tools read kohya's names and alphas; else `diffusion_model.` and the original
    names, as ComfyUI does for every family. module: ss_network_module.
    """

    base_version: str
    architecture: str
    sd_version: str
    v2: bool = False
    original: bool = False
    is_kohya: bool = True
    module: str = "networks.lora"


@dataclass(frozen=True)
class VelocityMark:
    """A bias whose standard deviation is above `spread` in velocity models, and below in others."""

    tensor: str
    spread: float


@dataclass(frozen=True)
class Family:
    """A family of base models.

    name: of its architecture. words: for the artist. pipeline: diffusers' class. predicts: the
    prediction types of its models, in diffusers' names. flow_shift: of the timesteps of a flow, for
    models that do not tell their own; None: diffusion. eta: of a drawing, see
    `studio.maths.schedules`. sampler: A1111's name for drawing without noise in the steps.
    text_encoders: only single files of this family have the last one's prefix. layers: that a LoRA
    changes. transformer: the blocks of a network that is none of a UNet's, and to which all facts
    about a UNet do not apply. shift: the rule that moves the timesteps of a flow by the size of the
    picture and the number of steps (`studio.models.levels`); "" for none. steps, guidance: of a
    drawing, where the family has its own. memory: that autograd keeps for one place of a latent, in
    that of a UNet's (`studio.engine.memory`).
    size_px: of the training pictures. portrait_px: other (width, height) of its training.
    attention_depths: transformer blocks in each attention of the UNet, for recognition.
    down_blocks: of the UNet, diffusers' classes. heads: of each attention, if the same everywhere;
    else every head is 64 channels wide. linear_projection: the attentions' projections are linear
    layers instead of convolutions. upcast_attention: attention overflows in half precision.
    transformer_layers: of each down block; None: 1. takes_size: the UNet is conditioned on the size
    of the picture and the pooled text. vae_size_px, vae_scaling, vae_upcast: of the VAE; the last
    is set if it overflows in fp16, which gives black pictures. reads_clip_skip: else the layer
    before the last is always used, as in its training. zero_unconditional: an empty negative prompt
    is encoded as zeros, unless a model's folder has its own setting.
    """

    name: FamilyName
    words: str
    pipeline: str
    text_encoders: tuple[TextEncoder, ...] | tuple[ChatEncoder]
    lora: LoraNames
    size_px: int
    attention_depths: tuple[int, ...] = ()
    layers: Layers = field(default_factory=lambda: UNET_LAYERS)
    transformer: Transformer | None = None
    shift: str = ""
    steps: int | None = None
    guidance: float | None = None
    memory: float = 1.0
    down_blocks: tuple[str, ...] = (CROSSED, CROSSED, CROSSED, PLAIN)
    heads: int | None = None
    linear_projection: bool = True
    upcast_attention: bool = False
    transformer_layers: tuple[int, ...] | None = None
    takes_size: bool = False
    vae_size_px: int = 512
    vae_scaling: float = 0.18215
    vae_upcast: bool = False
    portrait_px: tuple[tuple[int, int], ...] = ()
    reads_clip_skip: bool = True
    zero_unconditional: bool = False
    velocity_mark: VelocityMark | None = None
    predicts: tuple[str, ...] = ("epsilon", "v_prediction")
    flow_shift: float | None = None
    eta: float = 1.0
    sampler: str = "DDIM"

    @property
    def network(self) -> str:
        """The folder of its network in a diffusers model."""
        return "unet" if self.transformer is None else "transformer"


_CLIP = TextEncoder("text_encoder", "tokenizer", "cond_stage_model.transformer.")
# SD 2 uses the states before the last of OpenCLIP's 24 layers.
_OPEN_CLIP = TextEncoder(
    "text_encoder", "tokenizer", "cond_stage_model.model.", is_open_clip=True, most_layers=23
)
_XL_CLIP = TextEncoder("text_encoder", "tokenizer", "conditioner.embedders.0.transformer.")
_XL_OPEN_CLIP = TextEncoder(
    "text_encoder_2",
    "tokenizer_2",
    "conditioner.embedders.1.model.",
    is_open_clip=True,
    has_projection=True,
)

SD1 = Family(
    name="sd1",
    words="Stable Diffusion 1",
    pipeline=SD_PIPELINE,
    text_encoders=(_CLIP,),
    lora=LoraNames("sd_v1", "stable-diffusion-v1/lora", "SD1"),
    size_px=512,
    attention_depths=(1,) * 16,
    heads=8,
    linear_projection=False,
)
SD2 = Family(
    name="sd2",
    words="Stable Diffusion 2",
    pipeline=SD_PIPELINE,
    text_encoders=(_OPEN_CLIP,),
    lora=LoraNames("sd_v2", "stable-diffusion-v2-512/lora", "SD2", v2=True),
    size_px=512,
    attention_depths=(1,) * 16,
    upcast_attention=True,
    predicts=("epsilon",),
    # Twice as large in 2.0 and 2.1 at 768 px and in models made from them; ComfyUI has this rule.
    velocity_mark=VelocityMark(
        f"{UNET_PREFIX}output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09
    ),
)
SD2_V = replace(
    SD2,
    lora=LoraNames("sd_v2_v", "stable-diffusion-v2-768-v/lora", "SD2", v2=True),
    size_px=768,
    predicts=("v_prediction",),
)
SDXL = Family(
    name="sdxl",
    words="Stable Diffusion XL",
    pipeline=XL_PIPELINE,
    text_encoders=(_XL_CLIP, _XL_OPEN_CLIP),
    lora=LoraNames("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "SDXL", original=True),
    size_px=1024,
    # About a megapixel in these shapes (arXiv 2307.01952, appendix I).
    portrait_px=((896, 1152), (832, 1216), (768, 1344), (640, 1536)),
    attention_depths=(2, 2, 10, 10, 10, 10, 10, 10, 2, 2, 2),
    down_blocks=(PLAIN, CROSSED, CROSSED),
    transformer_layers=(1, 2, 10),
    takes_size=True,
    vae_size_px=1024,
    vae_scaling=0.13025,
    vae_upcast=True,
    reads_clip_skip=False,
    zero_unconditional=True,
)

# The same network, trained to go straight from noise to picture (arXiv 2209.03003).
SDXL_RF = replace(
    SDXL,
    words="Stable Diffusion XL, rectified flow",
    predicts=("flow_prediction",),
    flow_shift=3.0,  # the default of ComfyUI, where the artist sets it
    # A step replaces sin²(eta · pi / 2), a fifth, of the noise's variance: less than DDPM does in
    # each of 25 steps. Replacing more than DDPM takes variance from the pictures.
    eta=0.3,
    sampler="Euler",
)

# Qwen3 of 4B or 8B; the states of three layers, as in FLUX.2's own code.
_QWEN3 = ChatEncoder("Qwen3", "qwen3", "text_encoder", "tokenizer", layers=(9, 18, 27), tokens=512)


def _klein_lora(size: str) -> LoraNames:
    """As musubi-tuner names them."""
    return LoraNames(
        f"flux_2_klein_{size}",
        f"Flux.2-klein-{size}/lora",
        "Unknown",
        is_kohya=False,
        module="networks.lora_flux_2",
    )


KLEIN_4B = Family(
    name="flux2_klein_4b",
    words="FLUX.2 klein base 4B",
    pipeline=KLEIN_PIPELINE,
    text_encoders=(_QWEN3,),
    lora=_klein_lora("4b"),
    size_px=1024,
    portrait_px=((896, 1152), (832, 1216), (768, 1344), (640, 1536)),
    layers=FLUX2_LAYERS,
    transformer=Transformer(double=5, single=20),
    shift="flux2",
    steps=50,
    guidance=4.0,
    memory=11.0,
    predicts=("flow_prediction",),
    reads_clip_skip=False,
    eta=0.3,
    sampler="Euler",
)
KLEIN_9B = replace(
    KLEIN_4B,
    name="flux2_klein_9b",
    words="FLUX.2 klein base 9B",
    lora=_klein_lora("9b"),
    transformer=Transformer(double=8, single=24),
    memory=19.0,
)

FAMILIES = {
    "sd1": SD1,
    "sd2": SD2,
    "sd2_v": SD2_V,
    "sdxl": SDXL,
    "sdxl_rf": SDXL_RF,
    "flux2_klein_4b": KLEIN_4B,
    "flux2_klein_9b": KLEIN_9B,
}


def key_of(name: str, prediction_type: str) -> str:
    """The key in `FAMILIES` of models of an architecture. Raises KeyError if there are none."""
    for key, family in FAMILIES.items():
        if family.name == name and prediction_type in family.predicts:
            return key
    raise KeyError(f"no {name} predicts {prediction_type}")


def family_of(name: str, prediction_type: str = "epsilon") -> Family:
    """The entry of models of an architecture. Raises KeyError."""
    return FAMILIES[key_of(name, prediction_type)]
