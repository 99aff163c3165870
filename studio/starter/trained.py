"""What the stages have trained, put together: the pipeline, and the folder that is shipped."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.training_utils import EMAModel

from studio.starter.captions import tokenizer_for
from studio.starter.codes import CHANNELS, CODES
from studio.starter.loop import read_checkpoint
from studio.starter.networks import (
    LOG_VARIANCE,
    new_autoencoder,
    new_text_encoder,
    new_unet,
)
from studio.starter.pictures import Pictures
from studio.starter.pipeline import pipeline_of
from studio.starter.start import begin, is_trained


def trained_autoencoder(folder: Path) -> AutoencoderKL:
    """On the CPU. Raises SystemExit with a sentence where it was not trained."""
    vae = new_autoencoder().eval().requires_grad_(False)
    begin(folder, {"vae": vae})
    if is_trained(folder, "autoencoder"):
        vae.decoder.load_state_dict(read_checkpoint(folder / "autoencoder.pt")["decoder"])
    if is_trained(folder, "encoder"):
        vae.encoder.load_state_dict(read_checkpoint(folder / "encoder.pt")["encoder"])
    last = vae.encoder.conv_out
    last.weight[CHANNELS:] = 0
    last.bias[CHANNELS:] = LOG_VARIANCE
    return vae


def trained_pipeline(
    pictures: Pictures, folder: Path, vae: AutoencoderKL
) -> StableDiffusionPipeline:
    """With the averaged weights of U-Net and text encoder, in float32 on the CPU."""
    tokenizer = tokenizer_for(pictures, folder)
    unet, text_encoder = new_unet(), new_text_encoder(tokenizer)
    begin(folder, {"unet": unet, "text_encoder": text_encoder})
    if is_trained(folder, "diffusion"):
        parameters = [*unet.parameters(), *text_encoder.parameters()]
        ema = EMAModel(parameters)
        ema.load_state_dict(read_checkpoint(folder / "diffusion.pt")["ema"])
        ema.copy_to(parameters)
    return pipeline_of(vae, text_encoder, tokenizer, unet)


def write(pictures: Pictures, folder: Path) -> Path:
    """The diffusers folder in fp16, `folder`/model."""
    pipeline = trained_pipeline(pictures, folder, trained_autoencoder(folder))
    pipeline.to(dtype=torch.float16).save_pretrained(folder / "model", safe_serialization=True)
    shutil.copyfile(folder / CODES, folder / "model" / CODES)
    return folder / "model"
