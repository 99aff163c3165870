"""The starter's networks, untrained: all of the Stable Diffusion kind."""

from __future__ import annotations

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from studio.starter.captions import TOKENS
from studio.starter.codes import CHANNELS, PLACES
from studio.starter.pictures import SIZE_PX

UNET_WIDTHS = (96, 144, 208)
TEXT_WIDTH, TEXT_LAYERS = 160, 2
# nearly all weights where there are few places: there they remember drawings, and cost least
VAE_WIDTHS = (8, 16, 32, 64, 128, 192)
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
    """Most of its weights stand at 4 x 4 and 2 x 2 places, where a step of it costs least.

    At 2 x 2 every place sees every other, each by weights of its own: no position has to be told.
    Attention at 8 x 8 would cost a third of the speed.
    """
    return UNet2DConditionModel(
        sample_size=PLACES,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=UNET_WIDTHS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # in a UNet2DConditionModel this is the number of heads
        # The prompt, pooled, beside the timestep: cross-attention alone learns what to draw slowly.
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        norm_num_groups=16,
    )


def new_autoencoder(size_px: int = SIZE_PX) -> AutoencoderKL:
    """For pictures of the given size: a smaller one lacks the levels of the largest pictures."""
    levels = (size_px // PLACES).bit_length()
    vae = AutoencoderKL(
        block_out_channels=VAE_WIDTHS[-levels:],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=CHANNELS,
        # with a group for each of 8 channels, the last norm would take a picture's colours from it
        norm_num_groups=1,
        sample_size=size_px,
        scaling_factor=1.0,  # the codes have a spread of 1
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return vae
