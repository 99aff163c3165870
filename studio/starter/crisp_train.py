"""Trains the crisp starter model in resumable stages.

    codes      principal components of 32 x 32 pixel patches: the latents of all pictures
    diffusion  U-Net and CLIP text encoder together on the stored latents, v-prediction, EMA
    samples    what the U-Net makes of prompts, beside the nearest drawings
    autoencoder  to crisp pictures, from latents as wrong as the U-Net's; the encoder to the codes
    write      the diffusers folder in fp16

Every picture is one of a few thousand combinations (`crisp_data.Pictures`), so its latent is
computed once, and an update of the U-Net touches no pixel. Each stage keeps a checkpoint in the
folder and goes on from it when started again.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from studio.starter import crisp_data
from studio.starter.crisp_autoencoder import (
    CHANNELS,
    new_autoencoder,
    train_autoencoder,
    trained_autoencoder,
)
from studio.starter.crisp_data import ALL_GROUNDS, PLACEMENTS, SIZE_PX, SOURCES, Pictures
from studio.starter.crisp_recogniser import train_recogniser
from studio.starter.train import (
    EMPTY_CAPTION_SHARE,
    NAMED_GROUND_SHARE,
    NAMED_STYLE_SHARE,
    generator,
    new_scheduler,
    read_checkpoint,
    save_checkpoint,
    train_tokenizer,
)

PATCH_PX = 32
PLACES = SIZE_PX // PATCH_PX
UNET_WIDTHS = (128, 240)
TEXT_WIDTH, TEXT_LAYERS, TEXT_TOKENS, VOCABULARY = 192, 2, 24, 1400
BATCH = 64
PEAK = 1e-3
# float32 is faster where the processor would only emulate it
HAS_BFLOAT16 = torch.backends.cpu.get_cpu_capability() == "AVX512" and (
    torch.ops.mkldnn._is_mkldnn_bf16_supported()
)
COOLING_SHARE = 0.25  # of the updates, at the end


# --- codes ---------------------------------------------------------------------------------------


def patches(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, SIZE_PX, SIZE_PX) -> (B, PLACES * PLACES, 3 * PATCH_PX * PATCH_PX)."""
    return F.unfold(images, PATCH_PX, stride=PATCH_PX).transpose(1, 2)


def fit_codes(pictures: Pictures, seed: int = 0, count: int = 800) -> dict[str, torch.Tensor]:
    """Mean, basis (patch, CHANNELS) and the scale of each component, from `count` pictures.

    A component is divided by the root of its spread: wholly whitened, edges would weigh as much as
    shapes; as they are, nothing but the mean colour of a patch would weigh.
    """
    chosen = np.random.default_rng(seed).choice(pictures.count, count, replace=False)
    size = 3 * PATCH_PX**2
    total, squares = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size)
    for some in np.array_split(chosen, max(1, count // 50)):
        rows = patches(pictures.drawn(some)).flatten(0, 1)
        total += rows.sum(0)
        squares += rows.T @ rows
    places = count * PLACES**2
    mean = (total / places).float()
    covariance = squares / places - torch.outer(mean, mean)
    values, vectors = torch.linalg.eigh(covariance)
    basis, spread = vectors.flip(1)[:, :CHANNELS], values.flip(0)[:CHANNELS].clamp(min=0).sqrt()
    scale = spread.sqrt()
    scale *= (spread / scale).square().mean().sqrt()  # the latents' own spread is 1
    return {"mean": mean, "basis": basis.contiguous(), "scale": scale}


def encode(codes: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """(B, CHANNELS, PLACES, PLACES)."""
    found = (patches(images) - codes["mean"]) @ codes["basis"] / codes["scale"]
    return found.transpose(1, 2).unflatten(2, (PLACES, PLACES))


def linear_decode(codes: dict[str, torch.Tensor], latents: torch.Tensor) -> torch.Tensor:
    """The pictures that the components alone make, (B, 3, SIZE_PX, SIZE_PX)."""
    rows = latents.flatten(2).transpose(1, 2) * codes["scale"]
    images = rows @ codes["basis"].T + codes["mean"]
    return F.fold(images.transpose(1, 2), SIZE_PX, PATCH_PX, stride=PATCH_PX)


def stored_latents(pictures: Pictures, folder: Path) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """The codes, and the latents of all pictures (count, CHANNELS, PLACES, PLACES) in float16."""
    path, values = folder / "codes.pt", folder / "latents.npy"
    if not path.exists() or not values.exists():
        codes = fit_codes(pictures)
        found = np.empty((pictures.count, CHANNELS, PLACES, PLACES), np.float16)
        errors = []
        for some in np.array_split(np.arange(pictures.count), pictures.count // 64):
            images = pictures.drawn(some)
            latents = encode(codes, images)
            found[some] = latents.numpy()
            errors.append((linear_decode(codes, latents) - images).square().mean())
        np.save(values, found)
        torch.save(codes, path)
        print(f"codes: {10 * torch.log10(4 / torch.stack(errors).mean()):.1f} dB", flush=True)
    return torch.load(path, weights_only=True), np.load(values)


# --- text ----------------------------------------------------------------------------------------


def words(concept: str, style: str | None, ground: str | None, form: int) -> str:
    """A prompt for one picture: "octopus, ink style, blue background"; two forms."""
    if form == 0:
        parts = [concept, style and f"{style} style", ground and f"{ground} background"]
        return ", ".join(part for part in parts if part)
    article = "an" if (style or concept)[0] in "aeiou" else "a"
    text = f"{article} {style} {concept}" if style else f"{article} {concept}"
    return f"{text} on a {ground} background" if ground else text


def draw_caption(pictures: Pictures, number: int, draw: random.Random) -> str:
    """Words for a picture in training: not all of it is named, and sometimes nothing."""
    if draw.random() < EMPTY_CAPTION_SHARE:
        return ""
    concept, style, ground, _ = (int(part) for part in pictures.parts(np.array(number)))
    return words(
        pictures.concepts[concept],
        list(SOURCES)[style] if draw.random() < NAMED_STYLE_SHARE else None,
        ALL_GROUNDS[ground] if draw.random() < NAMED_GROUND_SHARE else None,
        draw.randrange(2),
    )


def tokenizer_for(pictures: Pictures, folder: Path) -> CLIPTokenizer:
    if (folder / "tokenizer").exists():
        return CLIPTokenizer.from_pretrained(folder / "tokenizer")
    draw = random.Random("tokenizer")
    captions = [draw_caption(pictures, draw.randrange(pictures.count), draw) for _ in range(8000)]
    return train_tokenizer(captions, folder / "tokenizer", VOCABULARY, TEXT_TOKENS)


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=4,
            max_position_embeddings=TEXT_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


# --- diffusion -----------------------------------------------------------------------------------


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


def learning_rate(update: int, updates: int, peak: float, warmup: int = 200) -> float:
    """A warm-up, a plateau and a linear end: the plateau can be made longer while a run goes on."""
    cooling = max(1, round(COOLING_SHARE * updates))
    return peak * min(1.0, (update + 1) / warmup, max(0.01, (updates - update) / cooling))


def train_diffusion(
    pictures: Pictures, folder: Path, updates: int, seed: int, deadline_s: float
) -> None:
    _, latents = stored_latents(pictures, folder)
    tokenizer = tokenizer_for(pictures, folder)
    torch.manual_seed(seed)
    unet, text_encoder = new_unet(), new_text_encoder(tokenizer)
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    print(f"{sum(p.numel() for p in parameters) / 1e6:.1f} million parameters", flush=True)
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    ema = EMAModel(parameters, decay=0.999, use_ema_warmup=True, power=0.75, foreach=True)
    alphas = new_scheduler().alphas_cumprod
    shares = torch.tensor([placement.share for placement in PLACEMENTS])

    def loss_of(update: int) -> torch.Tensor:
        draw = generator(seed + 1, update)
        chance = random.Random(draw.initial_seed())
        numbers = torch.randint(pictures.count // len(PLACEMENTS), (BATCH,), generator=draw)
        placements = torch.multinomial(shares, BATCH, replacement=True, generator=draw)
        numbers = numbers * len(PLACEMENTS) + placements
        captions = [draw_caption(pictures, number, chance) for number in numbers.tolist()]
        ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        clean = torch.from_numpy(latents[numbers.numpy()]).float()
        noise = torch.randn(clean.shape, generator=draw)
        # spread evenly over a batch, so that no update happens to see little noise alone
        even = (torch.arange(BATCH) + torch.rand(BATCH, generator=draw)) / BATCH
        timesteps = (even * len(alphas)).long()
        alpha_bar = alphas[timesteps][:, None, None, None]
        noisy = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise
        velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean
        # the fused attention's backward pass is slow on a CPU in bfloat16
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.autocast("cpu", torch.bfloat16, enabled=HAS_BFLOAT16),
        ):
            predicted = unet(noisy, timesteps, text_encoder(ids.input_ids)[0]).sample
        snr = (alpha_bar / (1 - alpha_bar)).flatten()
        weight = (5 / (snr + 1)).clamp(max=1)
        error = F.mse_loss(predicted.float(), velocity, reduction="none").mean((1, 2, 3))
        return (weight * error).mean()

    parts = {"unet": unet, "text_encoder": text_encoder, "optimiser": optimiser, "ema": ema}
    checkpoint, first = folder / "diffusion.pt", 0
    if checkpoint.exists():
        state = read_checkpoint(checkpoint, torch.device("cpu"))
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first = state["update"]
    losses: list[float] = []
    started_s = time.monotonic()
    for update in range(first, updates):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(update, updates, PEAK)
        loss = loss_of(update)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        ema.step(parameters)
        losses.append(loss.item())
        done = update + 1
        stops = done == updates or time.monotonic() > deadline_s
        if stops or done % 100 == 0:
            speed = (done - first) * BATCH / (time.monotonic() - started_s)
            mean = sum(losses) / len(losses)
            print(f"{done}/{updates}  loss {mean:.4f}  {speed:.0f} pictures/s", flush=True)
            losses.clear()
        if stops or done % 250 == 0:
            state = {name: part.state_dict() for name, part in parts.items()}
            save_checkpoint(checkpoint, state | {"update": done})
        if stops:
            return


# --- written -------------------------------------------------------------------------------------


def trained_pipeline(pictures: Pictures, folder: Path, vae: AutoencoderKL):
    """The averaged weights, in float32."""
    tokenizer = tokenizer_for(pictures, folder)
    unet, text_encoder = new_unet(), new_text_encoder(tokenizer)
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    ema = EMAModel(parameters)
    ema.load_state_dict(read_checkpoint(folder / "diffusion.pt")["ema"])
    ema.copy_to(parameters)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@torch.no_grad()
def sample_latents(pictures: Pictures, folder: Path, count: int, seed: int) -> None:
    """What the U-Net makes of prompts, and the drawing that each comes closest to: samples.npz.

    Every other prompt names style and ground too. A sample is compared with all pictures that its
    prompt describes.
    """
    _, stored = stored_latents(pictures, folder)
    pipeline = trained_pipeline(pictures, folder, new_autoencoder())
    pipeline.set_progress_bar_config(disable=True)
    chance = random.Random(seed)
    by_parts = np.arange(pictures.count).reshape(pictures.sizes)
    found, numbers = [], []
    while len(numbers) < count:
        prompts, candidates = [], []
        for number in range(BATCH):
            c, s, g = (chance.randrange(size) for size in pictures.sizes[:3])
            concept, style, ground = pictures.concepts[c], list(SOURCES)[s], ALL_GROUNDS[g]
            if number % 2:
                prompts.append(words(concept, style, ground, chance.randrange(2)))
                candidates.append(by_parts[c, s, g].ravel())
            else:
                prompts.append(concept)
                candidates.append(by_parts[c].ravel())
        draw = torch.Generator().manual_seed(chance.randrange(2**31))
        with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BFLOAT16):
            latents = pipeline(
                prompts,
                num_inference_steps=20,
                guidance_scale=3.0,
                generator=draw,
                output_type="latent",
                height=SIZE_PX,
                width=SIZE_PX,
            ).images.float()
        for latent, options in zip(latents.numpy(), candidates, strict=True):
            distances = np.square(stored[options].astype(np.float32) - latent).sum((1, 2, 3))
            numbers.append(options[distances.argmin()])
            found.append(latent.astype(np.float16))
        print(f"{len(numbers)}/{count} sampled", flush=True)
    latents, chosen = np.stack(found), np.array(numbers)
    error = (latents.astype(np.float32) - stored[chosen].astype(np.float32)).std()
    print(f"they differ from the nearest drawings by {error:.3f} (standard deviation)")
    np.savez(folder / "samples.npz", latents=latents, numbers=chosen)


def write(pictures: Pictures, folder: Path) -> Path:
    """The diffusers folder in fp16, `folder`/model."""
    target = folder / "model"
    pipeline = trained_pipeline(pictures, folder, trained_autoencoder(folder))
    pipeline.to(dtype=torch.float16).save_pretrained(target, safe_serialization=True)
    return target


STAGES = ("codes", "diffusion", "samples", "autoencoder", "recogniser", "write")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--folder", type=Path, default=crisp_data.BUILD_PATH)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=8000)
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--minutes", type=float, default=math.inf)
    args = parser.parse_args(argv)
    pictures = crisp_data.load(args.folder)
    deadline_s = time.monotonic() + 60 * args.minutes
    _, latents = stored_latents(pictures, args.folder)
    if args.stage == "diffusion":
        train_diffusion(pictures, args.folder, args.updates, args.seed, deadline_s)
    if args.stage == "samples":
        sample_latents(pictures, args.folder, args.samples, args.seed)
    if args.stage == "autoencoder":
        train_autoencoder(
            *(pictures, latents, args.folder, args.updates, args.seed, HAS_BFLOAT16, deadline_s)
        )
    if args.stage == "recogniser":
        train_recogniser(
            *(pictures, args.folder, args.updates, args.seed, HAS_BFLOAT16, deadline_s)
        )
    if args.stage == "write":
        print(f"Wrote {write(pictures, args.folder)}")


if __name__ == "__main__":
    main()
