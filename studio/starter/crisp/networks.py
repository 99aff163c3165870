"""The starter's networks, untrained: all of the Stable Diffusion kind."""

from __future__ import annotations

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from studio.starter.crisp.captions import TOKENS
from studio.starter.crisp.codes import CHANNELS, PLACES
from studio.starter.crisp.pictures import SIZE_PX

UNET_WIDTHS = (128, 240)
TEXT_WIDTH, TEXT_LAYERS = 192, 2
VAE_WIDTHS = (8, 16, 32, 64, 96, 112)
LOG_VARIANCE = -12.0  # the code is certain


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet() -> UNet2DConditionModel:
    """Most of its weights stand at 4 x 4 places, where a step of it costs least."""
    return UNet2DConditionModel(
        sample_size=PLACES,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=UNET_WIDTHS,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # in a UNet2DConditionModel this is the number of heads
        # The prompt, pooled, beside the timestep: cross-attention alone learns what to draw slowly.
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        norm_num_groups=16,
    )


def new_autoencoder() -> AutoencoderKL:
    levels = len(VAE_WIDTHS)
    vae = AutoencoderKL(
        block_out_channels=VAE_WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE_PX,
        scaling_factor=1.0,  # the codes have a spread of 1
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return vae
