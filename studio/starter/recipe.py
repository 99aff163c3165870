"""What a starter model is made of: one value for every choice that the stages share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Sizes in pixels, widths in channels; `held_out` and `scenes` are shares of 1."""

    name: str
    size_px: int
    drawing_px: int  # of a drawing that stands alone: the margin is where it is moved about
    listed: bool  # only the concepts of concepts.txt, or all that every set draws
    scenes: float  # of the training pictures, those with more than one object
    keywords: bool  # captions in more words than an object's name
    # Of the combinations of object, style and ground, those that training never draws. Where there
    # are any, the autoencoder does not see every drawing either.
    held_out: float
    unet_widths: tuple[int, ...]  # all levels but the first attend to the prompt
    text_width: int
    text_layers: int
    text_tokens: int
    vocabulary: int
    autoencoder_updates: int
    recogniser_updates: int
    diffusion_updates: int
    batch: int  # pictures in an update of U-Net and text encoder


# What made assets/starter, on two CPU cores.
SMALL = Recipe(
    name="small",
    size_px=64,
    drawing_px=54,
    listed=True,
    scenes=0.0,
    keywords=False,
    held_out=0.0,
    unet_widths=(64, 128, 192),
    text_width=160,
    text_layers=2,
    text_tokens=24,
    vocabulary=1400,
    autoencoder_updates=1400,
    recogniser_updates=1000,
    diffusion_updates=14000,
    batch=32,
)

# For a GPU that is lent in pieces; draws on two CPU cores. 39.3 MB in fp16.
#
# A latent stands for 4 x 4 pixels here too, of 8 numbers: at 128 px that alone rebuilds drawings
# that it was not fitted to with 27.9 dB, before the decoder has learned anything. One of 8 x 8
# pixels would leave the U-Net a quarter of the places, but needs 32 numbers for as much (29.7 dB;
# 26.3 dB with 16), edges are left to the decoder, and steps are cheap enough as they are: the first
# level, the only one with 32 x 32 places, is narrow and does not attend to the prompt. A pair of 20
# guided steps takes 3.0 seconds of one core, where SMALL takes 1.4 in the same run.
FULL = Recipe(
    name="full",
    size_px=128,
    drawing_px=112,
    listed=False,
    scenes=0.35,
    keywords=True,
    held_out=0.1,
    unet_widths=(64, 96, 160, 208),
    text_width=192,
    text_layers=3,
    text_tokens=32,  # the longest caption in 20,000 has 26
    vocabulary=5000,
    autoencoder_updates=20_000,
    recogniser_updates=15_000,
    diffusion_updates=40_000,
    batch=128,
)

RECIPES = {recipe.name: recipe for recipe in (SMALL, FULL)}
