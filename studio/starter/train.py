"""Trains the starter model in three resumable stages and writes it as a diffusers folder.

    autoencoder  AutoencoderKL on drawings over grounds of any colour
    diffusion    U-Net and CLIP text encoder together, v-prediction, weights capped as in
                 min-SNR (2303.09556), EMA
    write        fp16 diffusers folder, loadable by StableDiffusionPipeline

Each stage keeps a checkpoint in the build folder and goes on from it when started again. Random
numbers are drawn from (seed, update), so that a stopped run continues the sequence it would have
had.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.training_utils import EMAModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from studio.settings import STARTER_PATH
from studio.starter.data import (
    BUILD_PATH,
    GROUNDS,
    SIZE_PX,
    Drawings,
    caption,
    compose,
    listed_concepts,
    load,
)

LATENT_CHANNELS = 8
TEXT_WIDTH = 160
TEXT_TOKENS = 24
EMPTY_CAPTION_SHARE = 0.1
# A style is told by details and learned slowly, a ground at once: the style is named more often.
NAMED_STYLE_SHARE = 0.75
NAMED_GROUND_SHARE = 0.5
# where a drawing's corner may lie, in pixels: whole latents apart, so that moving a drawing moves
# its code and does not change it
CORNERS_PX = torch.tensor([1, 5, 9])


def generator(seed: int, update: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + update)


def save_checkpoint(path: Path, state: dict) -> None:
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def report(stage: str, update: int, updates: int, losses: list[float], started_s: float) -> None:
    mean = sum(losses) / len(losses)
    minutes = (time.monotonic() - started_s) / 60
    print(f"{stage} {update}/{updates}  loss {mean:.4f}  {minutes:.1f} min in this run", flush=True)
    losses.clear()


def one_cycle(update: int, updates: int, peak: float, warmup: int = 100) -> float:
    """Learning rate: linear warm-up, then a half cosine down to a fiftieth of the peak."""
    if update < warmup:
        return peak * (update + 1) / warmup
    progress = torch.tensor((update - warmup) / max(1, updates - warmup))
    return peak * (0.02 + 0.98 * float(0.5 * (1 + torch.cos(torch.pi * progress))))


# --- autoencoder ---------------------------------------------------------------------------------


def new_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE_PX,
        mid_block_add_attention=False,
    ).to(memory_format=torch.channels_last)


def any_ground_batch(drawings: Drawings, size: int, draw: torch.Generator) -> torch.Tensor:
    """Random drawings on grounds of the palette or, for half of them, of any colour at all."""
    flat = drawings.rgba.flatten(0, 1)
    rows = torch.randint(len(flat), (size,), generator=draw)
    palette = torch.tensor(list(GROUNDS.values()))
    named = palette[torch.randint(len(palette), (size,), generator=draw)]
    free = torch.randint(256, (size, 3), generator=draw)
    ground = torch.where(torch.rand(size, 1, generator=draw) < 0.5, named, free)
    shift_px = CORNERS_PX[torch.randint(len(CORNERS_PX), (size, 2), generator=draw)]
    return compose(flat[rows], ground, shift_px).to(memory_format=torch.channels_last)


def _identity_residuals(module: torch.nn.Module) -> None:
    for block in module.modules():
        if isinstance(block, ResnetBlock2D):
            torch.nn.init.zeros_(block.conv2.weight)
            torch.nn.init.zeros_(block.conv2.bias)


def _copy_channels(conv: torch.nn.Conv2d, taps: list[tuple[int, int, int, int]]) -> None:
    """Makes a convolution copy channels: (output, input, row, column) of each copied one."""
    torch.nn.init.zeros_(conv.weight)
    torch.nn.init.zeros_(conv.bias)
    for output, source, row, column in taps:
        conv.weight.data[output, source, row, column] = 1.0


@torch.no_grad()
def set_linear_encoder(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """Gives the encoder weights that compute principal components of 4 x 4 pixel patches.

    A good code is had in seconds this way, where learning one takes a CPU an hour; the decoder,
    which does the hard part, is then trained against fixed latents. Residual blocks become
    identities, the two strided convolutions gather a patch's 48 values, and constant channels
    outweigh them in each group, so that group norm is nearly linear. Returns the PSNR in dB of the
    linear reconstruction.
    """
    encoder = vae.encoder
    _identity_residuals(encoder)
    _copy_channels(encoder.conv_in, [(c, c, 1, 1) for c in range(3)])
    gather = [(0, 0), (0, 1), (1, 0), (1, 1)]
    for block, channels in zip(encoder.down_blocks[:2], (3, 12), strict=True):
        taps = [
            (channels * i + c, c, row, column)
            for i, (row, column) in enumerate(gather)
            for c in range(channels)
        ]
        _copy_channels(block.downsamplers[0].conv, taps)
    _copy_channels(
        encoder.down_blocks[1].resnets[0].conv_shortcut, [(c, c, 0, 0) for c in range(12)]
    )
    last = encoder.down_blocks[2].resnets[0].conv_shortcut
    _copy_channels(last, [(12 * (c // 6) + c % 6, c, 0, 0) for c in range(48)])
    constants = torch.arange(96) % 12 >= 6
    last.bias[constants] = 4.0 * (-1.0) ** torch.arange(int(constants.sum()))
    torch.nn.init.constant_(encoder.conv_norm_out.weight, 4.0)
    torch.nn.init.constant_(encoder.conv_norm_out.bias, 6.0)

    features: list[torch.Tensor] = []
    hook = encoder.conv_out.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    encoder(images)
    hook.remove()
    rows = features[0].permute(0, 2, 3, 1).flatten(0, 2)
    patches = F.unfold(images, 4, stride=4).transpose(1, 2).flatten(0, 1)
    mean = patches.mean(0)
    _, values, vectors = torch.linalg.svd(patches - mean, full_matrices=False)
    basis = vectors[:LATENT_CHANNELS].T
    spread = values[:LATENT_CHANNELS] / len(patches) ** 0.5
    # one scale for all: whitened components would make edges weigh as much as shapes
    code = (patches - mean) @ basis / spread[0]
    design = torch.cat([rows, torch.ones(len(rows), 1)], 1).double()
    gram = design.T @ design + 1e-3 * torch.eye(design.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(gram, design.T @ code.double()).float()

    torch.nn.init.zeros_(encoder.conv_out.weight)
    encoder.conv_out.weight[:LATENT_CHANNELS, :, 1, 1] = solution[:-1].T
    encoder.conv_out.bias[:LATENT_CHANNELS] = solution[-1]
    encoder.conv_out.bias[LATENT_CHANNELS:] = -12.0  # log-variance: the code is certain
    _copy_channels(vae.quant_conv, [(c, c, 0, 0) for c in range(2 * LATENT_CHANNELS)])
    rebuilt = (design.float() @ solution * spread[0]) @ basis.T + mean
    return float(10 * torch.log10(4 / (rebuilt - patches).square().mean()))


def train_autoencoder(folder: Path, updates: int, batch: int, seed: int, device: str) -> None:
    """Encoder by principal components, decoder by gradient descent on L1 and squared error."""
    checkpoint = folder / "autoencoder.pt"
    torch.manual_seed(seed)
    drawings = load(folder / "drawings.safetensors")
    vae = new_autoencoder()
    decoder = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimiser = torch.optim.AdamW(decoder, weight_decay=0.01)
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        vae.load_state_dict(state["vae"])
        first = state["update"]
        if "optimiser" in state:
            optimiser.load_state_dict(state["optimiser"])
    else:
        psnr_db = set_linear_encoder(vae, any_ground_batch(drawings, 512, generator(seed, 0)))
        print(f"encoder: {psnr_db:.1f} dB with a linear decoder", flush=True)
        save_checkpoint(checkpoint, {"vae": vae.state_dict(), "update": 0})
    vae.to(device)
    losses: list[float] = []
    started_s = time.monotonic()
    for update in range(first, updates):
        images = any_ground_batch(drawings, batch, generator(seed, update + 1)).to(device)
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mode()
        with torch.autocast(device, torch.bfloat16):
            decoded = vae.decode(latents).sample
        error = decoded.float() - images
        loss = error.abs().mean() + error.square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = one_cycle(update, updates, 2e-3)
        optimiser.step()
        losses.append(error.square().mean().item())
        if (update + 1) % 50 == 0 or update + 1 == updates:
            report("autoencoder (mse)", update + 1, updates, losses, started_s)
            state = {"vae": vae.state_dict(), "optimiser": optimiser.state_dict()}
            save_checkpoint(checkpoint, state | {"update": update + 1})


# --- text ----------------------------------------------------------------------------------------


def captions_of(concept: str, style: str | None, ground: str | None) -> tuple[str, str]:
    """The two wordings that the model learns: a list of words, and a sentence."""
    article = "an" if concept[0].lower() in "aeiou" else "a"
    sentence = f"{article} {concept}"
    sentence += f" in {style} style" if style else ""
    sentence += f" on a {ground} background" if ground else ""
    return caption(concept, style, ground), sentence


def train_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer (byte-level BPE with </w>) whose merges are learned from the captions."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split(",", "isolated")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1400, end_of_word_suffix="</w>", min_frequency=1, show_progress=False
    )
    bpe.train_from_iterator(captions, trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    words = [*dict.fromkeys(words), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)},
        merges=merges,
        model_max_length=TEXT_TOKENS,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


# --- diffusion -----------------------------------------------------------------------------------


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE_PX // 4,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # in a UNet2DConditionModel this is the number of heads
        # The prompt, pooled, beside the timestep: cross-attention alone learns what to draw slowly.
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        norm_num_groups=16,
    ).to(memory_format=torch.channels_last)


def new_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        # More noise at the end than Stable Diffusion's 0.012: a ground is one colour over the whole
        # picture, and would still shine through, which no chain that begins with noise can know.
        beta_end=0.02,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
    )


@torch.no_grad()
def encode_bank(vae: AutoencoderKL, drawings: Drawings, device: str) -> torch.Tensor:
    """(concepts, styles, grounds, C, h, w) float16: every drawing in the middle of every ground."""
    grounds = torch.tensor(list(GROUNDS.values()))
    middle = CORNERS_PX[1].expand(len(grounds), 2)
    bank = []
    for rgba in drawings.rgba.flatten(0, 1):
        images = compose(rgba[None].expand(len(grounds), -1, -1, -1), grounds, middle)
        posterior = vae.encode(images.to(device, memory_format=torch.channels_last)).latent_dist
        bank.append(posterior.mode().half().cpu())
    return torch.stack(bank).view(*drawings.rgba.shape[:2], len(grounds), *bank[0].shape[1:])


def caption_table(tokenizer: CLIPTokenizer, drawings: Drawings) -> torch.Tensor:
    """(concepts, styles + 1, grounds + 1, 2 wordings, tokens); the last ones are not named."""
    styles = (*drawings.styles, None)
    grounds = (*GROUNDS, None)
    texts = [
        text
        for concept in drawings.concepts
        for style in styles
        for ground in grounds
        for text in captions_of(concept, style, ground)
    ]
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids.view(len(drawings.concepts), len(styles), len(grounds), 2, -1)


def caption_rows(
    table: torch.Tensor,
    empty: torch.Tensor,
    rows: torch.Tensor,
    draw: torch.Generator,
) -> torch.Tensor:
    """Token ids for drawings `rows` (B, 3: concept, style, ground); not all of it is named."""
    batch = len(rows)
    named_style = torch.rand(batch, generator=draw) < NAMED_STYLE_SHARE
    named_ground = torch.rand(batch, generator=draw) < NAMED_GROUND_SHARE
    style = torch.where(named_style, rows[:, 1], table.shape[1] - 1)
    ground = torch.where(named_ground, rows[:, 2], table.shape[2] - 1)
    wording = torch.randint(2, (batch,), generator=draw)
    ids = table[rows[:, 0], style, ground, wording]
    dropped = torch.rand(batch, 1, generator=draw) < EMPTY_CAPTION_SHARE
    return torch.where(dropped, empty, ids)


def train_diffusion(folder: Path, updates: int, batch: int, seed: int, device: str) -> None:
    drawings = load(folder / "drawings.safetensors", only=listed_concepts())
    vae = new_autoencoder().to(device).eval()
    vae.load_state_dict(torch.load(folder / "autoencoder.pt", weights_only=True)["vae"])
    texts = [
        text
        for concept in drawings.concepts
        for style in drawings.styles
        for ground in GROUNDS
        for text in captions_of(concept, style, ground)
    ]
    # Merges that are equally frequent fall in any order: a run keeps those that it began with.
    if (folder / "tokenizer").exists():
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    else:
        tokenizer = train_tokenizer(texts, folder / "tokenizer")
    table = caption_table(tokenizer, drawings)
    empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids

    bank_path = folder / "latents.pt"
    if not bank_path.exists():
        save_checkpoint(bank_path, {"bank": encode_bank(vae, drawings, device)})
    bank = torch.load(bank_path, weights_only=True)["bank"]
    scale = 1 / bank.float().std().item()
    sizes = torch.tensor(bank.shape[:3])

    torch.manual_seed(seed)
    unet, text_encoder = new_unet().to(device), new_text_encoder(tokenizer).to(device)
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    ema = EMAModel(parameters, decay=0.999, use_ema_warmup=True, power=0.75)
    checkpoint, first = folder / "diffusion.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        unet.load_state_dict(state["unet"])
        text_encoder.load_state_dict(state["text_encoder"])
        optimiser.load_state_dict(state["optimiser"])
        ema.load_state_dict(state["ema"])
        first = state["update"]

    # the fused attention's backward pass is slow on a CPU in bfloat16
    attention = partial(sdpa_kernel, SDPBackend.MATH) if device == "cpu" else nullcontext
    alphas = new_scheduler().alphas_cumprod.to(device)
    losses: list[float] = []
    started_s = time.monotonic()
    for update in range(first, updates):
        draw = generator(seed + 1, update)
        rows = (torch.rand(batch, 3, generator=draw) * sizes).long()
        latents = bank[tuple(rows.T)].float().to(device) * scale
        ids = caption_rows(table, empty, rows, draw).to(device)
        noise = torch.randn(latents.shape, generator=draw).to(device)
        timesteps = torch.randint(len(alphas), (batch,), generator=draw).to(device)
        alpha_bar = alphas[timesteps][:, None, None, None]
        noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents
        with attention(), torch.autocast(device, torch.bfloat16):
            states = text_encoder(ids)[0]
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            predicted = unet(noisy, timesteps, states).sample
        snr = (alpha_bar / (1 - alpha_bar)).flatten()
        # Min-SNR-5 where there is little noise; elsewhere alike, because what a drawing shows is
        # learned where there is most noise, and min-SNR hardly weighs that.
        weight = (5 / (snr + 1)).clamp(max=1)
        error = F.mse_loss(predicted.float(), velocity, reduction="none").mean((1, 2, 3))
        loss = (weight * error).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = one_cycle(update, updates, 1.2e-3)
        optimiser.step()
        ema.step(parameters)
        losses.append(error.mean().item())
        if (update + 1) % 100 == 0 or update + 1 == updates:
            report("diffusion", update + 1, updates, losses, started_s)
        if (update + 1) % 250 == 0 or update + 1 == updates:
            save_checkpoint(
                checkpoint,
                {
                    "unet": unet.state_dict(),
                    "text_encoder": text_encoder.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "ema": ema.state_dict(),
                    "update": update + 1,
                    "scale": scale,
                },
            )


# --- write ---------------------------------------------------------------------------------------


def write(folder: Path, target: Path) -> None:
    """The averaged weights as a diffusers folder in fp16."""
    state = torch.load(folder / "diffusion.pt", weights_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    vae, unet, text_encoder = new_autoencoder(), new_unet(), new_text_encoder(tokenizer)
    vae.load_state_dict(torch.load(folder / "autoencoder.pt", weights_only=True)["vae"])
    vae.register_to_config(scaling_factor=state["scale"])
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    ema = EMAModel(parameters)
    ema.load_state_dict(state["ema"])
    ema.copy_to(parameters)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(target, safe_serialization=True)
    print(f"Wrote {target} from {state['update']} updates")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stage", choices=("autoencoder", "diffusion", "write", "all"), nargs="?")
    parser.add_argument("--folder", type=Path, default=BUILD_PATH)
    parser.add_argument("--target", type=Path, default=STARTER_PATH)
    parser.add_argument("--autoencoder-updates", type=int, default=1400)
    parser.add_argument("--diffusion-updates", type=int, default=14000)
    parser.add_argument("--batch", type=int, default=32, help="drawings in a diffusion update")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    stage = args.stage or "all"
    if stage in ("autoencoder", "all"):
        train_autoencoder(args.folder, args.autoencoder_updates, 16, args.seed, args.device)
    if stage in ("diffusion", "all"):
        train_diffusion(args.folder, args.diffusion_updates, args.batch, args.seed, args.device)
    if stage in ("write", "all"):
        write(args.folder, args.target)


if __name__ == "__main__":
    main()
