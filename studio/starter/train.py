"""Trains the starter model in resumable stages and writes it as a diffusers folder.

    autoencoder  AutoencoderKL on drawings over grounds of any colour
    recogniser   the classifier of the drawings, which judges what the model makes
    diffusion    U-Net and CLIP text encoder together, v-prediction, weights capped as in
                 min-SNR (2303.09556), EMA
    write        fp16 diffusers folder, loadable by StableDiffusionPipeline

Each stage keeps a checkpoint in the build folder and goes on from it when started again. Random
numbers are drawn from (seed, update), so that a stopped run continues the sequence it would have
had. The file is long, because all stages share their loop, checkpoints and networks.
"""

from __future__ import annotations

import math
import random
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.training_utils import EMAModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from studio.engine import recogniser
from studio.starter import scenes
from studio.starter.data import GROUNDS, Drawings, arguments, chosen, load, load_for
from studio.starter.loop import Figures, generator, read_checkpoint, run_updates
from studio.starter.pipeline import new_scheduler, pipeline_of, train_tokenizer
from studio.starter.recipe import Recipe
from studio.starter.scenes import Combinations, Scene

LATENT_CHANNELS = 8
EMPTY_CAPTION_SHARE = 0.1
# A style is told by details and learned slowly, a ground at once: the style is named more often.
NAMED_STYLE_SHARE = 0.75
NAMED_GROUND_SHARE = 0.5
TOKENIZER_CAPTIONS = 40  # of every concept


def one_cycle(update: int, updates: int, peak: float, warmup: int = 100) -> float:
    """Learning rate: linear warm-up, then a half cosine down to a fiftieth of the peak."""
    if update < warmup:
        return peak * (update + 1) / warmup
    progress = (update - warmup) / max(1, updates - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


# --- autoencoder ---------------------------------------------------------------------------------


def new_autoencoder(recipe: Recipe) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=recipe.size_px,
        mid_block_add_attention=False,
    ).to(memory_format=torch.channels_last)


def autoencoder_concepts(recipe: Recipe, drawings: Drawings, seen: bool) -> list[str]:
    """Those that the autoencoder is trained on, or those it is tested on: one in twenty."""
    return [
        name
        for row, name in enumerate(drawings.concepts)
        if (not recipe.held_out or row % 20 > 0) == seen
    ]


def any_ground_batch(
    recipe: Recipe, drawings: Drawings, size: int, draw: torch.Generator
) -> torch.Tensor:
    """Random scenes, moved about by a latent, on grounds of the palette or of any colour at all."""
    chance = random.Random(draw.initial_seed())
    shown = scenes.draw_scenes(recipe, drawings, frozenset(), size, chance)
    free = torch.randint(256, (size, 3), generator=draw)
    named = torch.rand(size, 1, generator=draw) < 0.5
    moves = [chance.choice((-1, 0, 1)) * scenes.LATENT_PX for _ in range(2 * size)]
    placed = [
        [(top + moves[2 * i], left + moves[2 * i + 1], side) for top, left, side in boxes]
        for i, boxes in enumerate(scenes.boxes(s.relation, recipe, chance) for s in shown)
    ]
    grounds = torch.where(named, scenes.palette(shown), free)
    images = scenes.drawn(drawings, shown, placed, grounds, recipe.size_px)
    return images.contiguous(memory_format=torch.channels_last)


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


def train_autoencoder(
    recipe: Recipe, folder: Path, seed: int, device: str, deadline_s: float
) -> bool:
    """Encoder by principal components, decoder by gradient descent on L1 and squared error."""
    drawings = load(folder)
    drawings = drawings.only(autoencoder_concepts(recipe, drawings, seen=True))
    torch.manual_seed(seed)
    vae = new_autoencoder(recipe)
    if not (folder / "autoencoder.pt").exists():
        images = any_ground_batch(recipe, drawings, 512, generator(seed, 0))
        psnr_db = set_linear_encoder(vae, images)
        print(f"encoder: {psnr_db:.1f} dB with a linear decoder", flush=True)
    vae.to(device)
    drawings = drawings.to(device)
    decoder = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimizer = torch.optim.AdamW(decoder, weight_decay=0.01)

    def loss_of(update: int) -> tuple[torch.Tensor, Figures]:
        images = any_ground_batch(recipe, drawings, 16, generator(seed, update + 1))
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mode()
        with torch.autocast(device, torch.bfloat16):
            decoded = vae.decode(latents).sample
        error = decoded.float() - images
        return error.abs().mean() + error.square().mean(), {}

    parts = {"vae": vae, "optimizer": optimizer}
    checkpoint = folder / "autoencoder.pt"
    rate_of = partial(one_cycle, updates=recipe.autoencoder_updates, peak=2e-3)
    return run_updates(checkpoint, parts, loss_of, rate_of, recipe.autoencoder_updates, deadline_s)


def trained_autoencoder(recipe: Recipe, folder: Path) -> AutoencoderKL:
    """On the CPU. Raises SystemExit with a sentence where it has not all its updates."""
    state = read_checkpoint(folder / "autoencoder.pt")
    if state["update"] < recipe.autoencoder_updates:
        raise SystemExit("The autoencoder is not trained to its end yet: that stage comes first.")
    vae = new_autoencoder(recipe).eval().requires_grad_(False)
    vae.load_state_dict(state["vae"])
    return vae


# --- recogniser ----------------------------------------------------------------------------------


def recogniser_batch(
    recipe: Recipe, drawings: Drawings, size: int, draw: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Single drawings, a little noisy and sometimes blurred, and their (B, 3) labels."""
    words = (drawings.concepts, drawings.styles, tuple(GROUNDS))
    labels = (torch.rand(size, 3, generator=draw) * torch.tensor([len(w) for w in words])).long()
    shown = [
        Scene("alone", (words[0][concept],), words[1][style], words[2][ground])
        for concept, style, ground in labels.tolist()
    ]
    corners = torch.randint(recipe.size_px - recipe.drawing_px + 1, (size, 2), generator=draw)
    placed = [[(top, left, recipe.drawing_px)] for top, left in corners.tolist()]
    grounds = scenes.palette(shown) + 12 * torch.randn(size, 3, generator=draw)
    images = scenes.drawn(drawings, shown, placed, grounds.clamp(0, 255), recipe.size_px)
    images = F.adaptive_avg_pool2d(images, recogniser.INPUT_PX)
    device = images.device
    blurred = F.avg_pool2d(images, 3, 1, 1)
    images = images + torch.rand(size, 1, 1, 1, generator=draw).to(device) * (blurred - images)
    level = 0.15 * torch.rand(size, 1, 1, 1, generator=draw)
    noise = level * torch.randn(images.shape, generator=draw)
    return images + noise.to(device), labels.to(device)


def train_recogniser(
    recipe: Recipe, folder: Path, seed: int, device: str, deadline_s: float
) -> bool:
    """On rendered drawings alone; written to `folder`/recogniser when it is done."""
    drawings = load_for(recipe, folder).to(device)
    torch.manual_seed(seed)
    words = (drawings.concepts, drawings.styles, tuple(GROUNDS))
    network = recogniser.Network(*map(len, words)).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)

    def loss_of(update: int) -> tuple[torch.Tensor, Figures]:
        images, labels = recogniser_batch(recipe, drawings, 64, generator(seed, update + 1))
        with torch.autocast(device, torch.bfloat16):
            outputs = network(images.contiguous(memory_format=torch.channels_last))
        loss = sum(
            F.cross_entropy(output.float(), labels[:, column], label_smoothing=0.05)
            for column, output in enumerate(outputs)
        )
        return loss, {}

    parts = {"network": network, "optimizer": optimizer}
    checkpoint = folder / "recogniser.pt"
    rate_of = partial(one_cycle, updates=recipe.recogniser_updates, peak=3e-3)
    done = run_updates(checkpoint, parts, loss_of, rate_of, recipe.recogniser_updates, deadline_s)
    if done:
        made = recogniser.Recogniser(network.eval().cpu(), *words)
        recogniser.save(made, folder / "recogniser")
    return done


# --- text ----------------------------------------------------------------------------------------


def draw_caption(recipe: Recipe, drawings: Drawings, scene: Scene, draw: random.Random) -> str:
    """The words for a scene in training: not all of it is named, and sometimes nothing."""
    if draw.random() < EMPTY_CAPTION_SHARE:
        return ""
    style, ground = draw.random() < NAMED_STYLE_SHARE, draw.random() < NAMED_GROUND_SHARE
    return scenes.words_for(scene, recipe, drawings.keywords, style, ground, draw)


def tokenizer_for(
    recipe: Recipe, drawings: Drawings, unseen: Combinations, folder: Path
) -> CLIPTokenizer:
    """The one in `folder`, learned from captions unless it is there.

    Merges that are equally frequent fall in any order: a run keeps those that it began with.
    """
    if folder.exists():
        return CLIPTokenizer.from_pretrained(folder)
    draw = random.Random("tokenizer")
    count = TOKENIZER_CAPTIONS * len(drawings.concepts)
    shown = scenes.draw_scenes(recipe, drawings, unseen, count, draw)
    captions = [draw_caption(recipe, drawings, scene, draw) for scene in shown]
    return train_tokenizer(captions, folder, recipe.vocabulary, recipe.text_tokens)


def new_text_encoder(recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.text_width,
            intermediate_size=4 * recipe.text_width,
            num_hidden_layers=recipe.text_layers,
            num_attention_heads=4,
            max_position_embeddings=recipe.text_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


# --- diffusion -----------------------------------------------------------------------------------


def new_unet(recipe: Recipe) -> UNet2DConditionModel:
    attending = len(recipe.unet_widths) - 1
    return UNet2DConditionModel(
        sample_size=recipe.size_px // scenes.LATENT_PX,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=recipe.unet_widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * attending),
        up_block_types=(*["CrossAttnUpBlock2D"] * attending, "UpBlock2D"),
        cross_attention_dim=recipe.text_width,
        attention_head_dim=4,  # in a UNet2DConditionModel this is the number of heads
        # The prompt, pooled, beside the timestep: cross-attention alone learns what to draw slowly.
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        norm_num_groups=16,
    ).to(memory_format=torch.channels_last)


def diffusion_batch(
    recipe: Recipe, drawings: Drawings, unseen: Combinations, size: int, draw: random.Random
) -> tuple[torch.Tensor, list[str]]:
    """Composed pictures on the drawings' device, and their captions."""
    shown = scenes.draw_scenes(recipe, drawings, unseen, size, draw)
    placed = [scenes.boxes(scene.relation, recipe, draw) for scene in shown]
    images = scenes.drawn(drawings, shown, placed, scenes.palette(shown), recipe.size_px)
    captions = [draw_caption(recipe, drawings, scene, draw) for scene in shown]
    return images.contiguous(memory_format=torch.channels_last), captions


@torch.no_grad()
def latent_scale(
    recipe: Recipe, drawings: Drawings, unseen: Combinations, vae: AutoencoderKL
) -> float:
    """What gives latents a standard deviation of 1; on the CPU, so that it is always the same."""
    images, _ = diffusion_batch(recipe, drawings, unseen, 256, random.Random("scale"))
    return 1 / vae.encode(images).latent_dist.mode().std().item()


def train_diffusion(
    recipe: Recipe, folder: Path, seed: int, device: str, deadline_s: float
) -> bool:
    drawings = load_for(recipe, folder)
    unseen = scenes.held_out(recipe, drawings)
    vae = trained_autoencoder(recipe, folder)
    scale = latent_scale(recipe, drawings, unseen, vae)
    vae, drawings = vae.to(device), drawings.to(device)
    tokenizer = tokenizer_for(recipe, drawings, unseen, folder / "tokenizer")

    torch.manual_seed(seed)
    unet, text_encoder = new_unet(recipe).to(device), new_text_encoder(recipe, tokenizer).to(device)
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    # foreach: a few kernels for all parameters, where three for each take a GPU longer to begin
    ema = EMAModel(parameters, decay=0.999, use_ema_warmup=True, power=0.75, foreach=True)
    # the fused attention's backward pass is slow on a CPU in bfloat16
    attention = partial(sdpa_kernel, SDPBackend.MATH) if device == "cpu" else nullcontext
    alphas = new_scheduler().alphas_cumprod.to(device)

    def loss_of(update: int) -> tuple[torch.Tensor, Figures]:
        draw = generator(seed + 1, update)
        chance = random.Random(draw.initial_seed())
        images, captions = diffusion_batch(recipe, drawings, unseen, recipe.batch, chance)
        ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mode() * scale
        noise = torch.randn(latents.shape, generator=draw).to(device)
        timesteps = torch.randint(len(alphas), (recipe.batch,), generator=draw).to(device)
        alpha_bar = alphas[timesteps][:, None, None, None]
        noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents
        with attention(), torch.autocast(device, torch.bfloat16):
            states = text_encoder(ids.input_ids.to(device))[0]
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            predicted = unet(noisy, timesteps, states).sample
        snr = (alpha_bar / (1 - alpha_bar)).flatten()
        # Min-SNR-5 where there is little noise; elsewhere alike, because what a drawing shows is
        # learned where there is most noise, and min-SNR hardly weighs that.
        weight = (5 / (snr + 1)).clamp(max=1)
        error = F.mse_loss(predicted.float(), velocity, reduction="none").mean((1, 2, 3))
        return (weight * error).mean(), {}

    parts = {"unet": unet, "text_encoder": text_encoder, "optimizer": optimizer, "ema": ema}
    checkpoint = folder / "diffusion.pt"
    rate_of = partial(one_cycle, updates=recipe.diffusion_updates, peak=1.2e-3)
    return run_updates(checkpoint, parts, loss_of, rate_of, recipe.diffusion_updates, deadline_s)


# --- write ---------------------------------------------------------------------------------------


def write(recipe: Recipe, folder: Path) -> Path:
    """The averaged weights as a diffusers folder in fp16, `folder`/model."""
    state = read_checkpoint(folder / "diffusion.pt")
    drawings = load_for(recipe, folder)
    unseen = scenes.held_out(recipe, drawings)
    tokenizer = tokenizer_for(recipe, drawings, unseen, folder / "tokenizer")
    vae = trained_autoencoder(recipe, folder)
    vae.register_to_config(scaling_factor=latent_scale(recipe, drawings, unseen, vae))
    unet, text_encoder = new_unet(recipe), new_text_encoder(recipe, tokenizer)
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    ema = EMAModel(parameters)
    ema.load_state_dict(state["ema"])
    ema.copy_to(parameters)
    pipeline = pipeline_of(vae, text_encoder, tokenizer, unet)
    target = folder / "model"
    pipeline.to(dtype=torch.float16).save_pretrained(target, safe_serialization=True)
    print(f"Wrote {target} from {state['update']} updates")
    return target


TRAINED = {
    "autoencoder": train_autoencoder,
    "recogniser": train_recogniser,
    "diffusion": train_diffusion,
}


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("stage", choices=(*TRAINED, "write", "all"), nargs="?", default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop with a checkpoint after so many"
    )
    args = parser.parse_args(argv)
    recipe, folder = chosen(args)
    deadline_s = time.monotonic() + 60 * args.minutes
    for stage, train in TRAINED.items():
        if args.stage not in (stage, "all"):
            continue
        if not train(recipe, folder, args.seed, args.device, deadline_s):
            print(f"The time is up: the same command goes on with the {stage}.")
            return
    if args.stage in ("write", "all"):
        write(recipe, folder)


if __name__ == "__main__":
    main()
