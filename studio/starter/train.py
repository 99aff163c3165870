"""Trains the starter model in resumable stages and writes it as a diffusers folder.

    diffusion    U-Net and CLIP text encoder together on the stored latents, v-prediction, weights
                 capped as in min-SNR (2303.09556), EMA
    samples      what the U-Net makes of prompts, beside the drawings that it comes closest to
    decoder      to small pictures, from latents that are a little wrong: cheap, and the larger
                 part of what the next stage has to know
    autoencoder  a decoder that draws whole pictures, which begins with the small one
    encoder      computes the codes of pictures, as imported ones need it
    recogniser   the classifier of the drawings, which judges what the model makes
    teacher      another with its own seed, by whose features a decoder is taught
    write        fp16 diffusers folder, loadable by StableDiffusionPipeline
    unpack       the shipped model into the build folder, before the other stages go on with it

Each stage keeps a checkpoint in the build folder and goes on from it when started again.
"""

from __future__ import annotations

import argparse
import functools
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from studio.engine import recogniser
from studio.starter.captions import draw_caption, tokenizer_for
from studio.starter.codes import stored_latents
from studio.starter.loop import Figures, Run, read_checkpoint
from studio.starter.networks import (
    new_autoencoder,
    new_text_encoder,
    new_unet,
)
from studio.starter.perceptual import TEACHER, feature_error, teacher_of
from studio.starter.pictures import (
    BUILD_PATH,
    DRAWING_PX,
    GROUNDS,
    PLACEMENTS,
    SIZE_PX,
    Pictures,
    Placement,
    load,
    pasted,
)
from studio.starter.pipeline import new_scheduler
from studio.starter.samples import SAMPLES, sample_latents
from studio.starter.start import begin, unpack
from studio.starter.styles import STYLES
from studio.starter.trained import write

UPDATES = {
    "diffusion": 16_000,
    "decoder": 4000,
    "autoencoder": 12_000,
    "encoder": 1500,
    "recogniser": 1500,
    "teacher": 700,
}
# the highest learning rates
PEAKS = {
    "diffusion": 1e-3,
    "decoder": 2e-3,
    "autoencoder": 2e-3,
    "encoder": 1e-3,
    "recogniser": 3e-3,
    "teacher": 3e-3,
}


# --- diffusion -----------------------------------------------------------------------------------

NOISIEST_SHARE = 0.3  # of the timesteps


def train_diffusion(pictures: Pictures, run: Run, batch: int = 32) -> bool:
    _, latents = stored_latents(pictures, run.folder)
    tokenizer = tokenizer_for(pictures, run.folder)
    torch.manual_seed(run.seed)
    unet = new_unet().to(run.device, memory_format=torch.channels_last)
    text_encoder = new_text_encoder(tokenizer).to(run.device)
    begin(run.folder, {"unet": unet, "text_encoder": text_encoder})
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    # foreach: a few kernels for all parameters, where three for each take longer to begin
    ema = EMAModel(parameters, decay=0.999, use_ema_warmup=True, power=0.75, foreach=True)
    alphas = new_scheduler().alphas_cumprod
    shares = torch.tensor([placement.share for placement in PLACEMENTS])

    def loss_of(update: int) -> tuple[Tensor, Figures]:
        draw = run.generator(update)
        chance = random.Random(draw.initial_seed())
        numbers = torch.randint(pictures.count // len(PLACEMENTS), (batch,), generator=draw)
        placements = torch.multinomial(shares, batch, replacement=True, generator=draw)
        numbers = numbers * len(PLACEMENTS) + placements
        captions = [draw_caption(pictures, number, chance) for number in numbers.tolist()]
        ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        clean = torch.from_numpy(latents[numbers.numpy()]).float()
        noise = torch.randn(clean.shape, generator=draw)
        # spread evenly over a batch, so that no update happens to see little noise alone; and half
        # of them where there is most noise, because there the words decide what is drawn
        even = (torch.arange(batch) + torch.rand(batch, generator=draw)) / batch
        noisiest = torch.arange(batch) % 2 == 1
        even = torch.where(noisiest, 1 - NOISIEST_SHARE * (1 - even), even)
        timesteps = (even * len(alphas)).long()
        alpha_bar = alphas[timesteps][:, None, None, None]
        noisy = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise
        velocity = (alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean).to(run.device)
        noisy = noisy.to(run.device, memory_format=torch.channels_last)
        with run.bfloat16():
            states = text_encoder(ids.input_ids.to(run.device))[0]
            predicted = unet(noisy, timesteps.to(run.device), states).sample
        # Min-SNR-5 where there is little noise; elsewhere alike, because what a drawing shows is
        # learned where there is most noise, and min-SNR hardly weighs that.
        snr = (alpha_bar / (1 - alpha_bar)).flatten().to(run.device)
        weight = (5 / (snr + 1)).clamp(max=1)
        error = F.mse_loss(predicted.float(), velocity, reduction="none").mean((1, 2, 3))
        return (weight * error).mean(), {}

    parts = {"unet": unet, "text_encoder": text_encoder, "optimizer": optimizer, "ema": ema}
    return run.updates_of("diffusion", parts, loss_of)


# --- autoencoder ---------------------------------------------------------------------------------

LARGEST_NOISE = 0.8  # standard deviation of what is added to a code; the codes' own is 1
SAMPLED_SHARE = 0.5  # of the latents, those that the U-Net has drawn
SMALL_PX = 64
FEATURES_WEIGHT = 0.1  # of the teacher's error, beside that of pixels


def decoding_error(
    drawn: Tensor, images: Tensor, teacher: nn.Sequential | None
) -> tuple[Tensor, Figures]:
    """What a decoder is taught by, and its parts. Both (B, 3, h, w)."""
    squared = {"squared": (drawn - images).detach().square().mean()}
    error = picture_error(drawn, images)
    if teacher is None:
        return error, squared
    seen = feature_error(teacher, drawn, images)
    return error + FEATURES_WEIGHT * seen, squared | {"features": seen.detach()}


def picture_error(drawn: Tensor, images: Tensor) -> Tensor:
    """Of values and of edges, at the full and at a quarter of the size. Both (B, 3, h, w)."""
    error = (drawn - images).abs().mean() + (drawn - images).square().mean()
    for scale in (1, 4):
        difference = F.avg_pool2d(drawn - images, scale)
        error = error + difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    return error


def latents_to_decode(
    stored: np.ndarray, samples: dict[str, np.ndarray] | None, batch: int, draw: torch.Generator
) -> tuple[Tensor, np.ndarray]:
    """Latents that are a little wrong, and the numbers of the pictures that they should become:
    codes with noise of any size up to the largest, and in the place of some the U-Net's samples."""
    numbers = torch.randint(len(stored), (batch,), generator=draw).numpy()
    codes = torch.from_numpy(stored[numbers]).float()
    level = LARGEST_NOISE * torch.rand(len(numbers), 1, 1, 1, generator=draw)
    wrong = codes + level * torch.randn(codes.shape, generator=draw)
    if samples is not None:
        count = round(SAMPLED_SHARE * len(numbers))
        rows = torch.randint(len(samples["numbers"]), (count,), generator=draw).numpy()
        numbers = np.concatenate([samples["numbers"][rows], numbers[count:]])
        wrong[:count] = torch.from_numpy(samples["latents"][rows]).float()
    return wrong, numbers


def _samples(folder: Path) -> dict[str, np.ndarray] | None:
    path = folder / "samples.npz"
    return dict(np.load(path)) if path.exists() else None


def train_decoder(pictures: Pictures, run: Run, batch: int = 16) -> bool:
    """At SMALL_PX, where an update costs a quarter."""
    _, stored = stored_latents(pictures, run.folder)
    torch.manual_seed(run.seed)
    decoder = new_autoencoder(SMALL_PX).decoder.to(run.device, memory_format=torch.channels_last)
    whole = new_autoencoder()
    begin(run.folder, {"vae": whole})
    take_over(decoder, whole.decoder.state_dict())
    teacher = teacher_of(run.folder, run.device)
    optimizer = torch.optim.AdamW(decoder.parameters(), weight_decay=0.01, betas=(0.9, 0.99))
    samples = _samples(run.folder)

    def loss_of(update: int) -> tuple[Tensor, Figures]:
        latents, numbers = latents_to_decode(stored, samples, batch, run.generator(update))
        images = F.avg_pool2d(pictures.drawn(numbers), SIZE_PX // SMALL_PX).to(run.device)
        latents = latents.to(run.device, memory_format=torch.channels_last)
        with run.bfloat16():
            drawn = decoder(latents).float()
        return decoding_error(drawn, images, teacher)

    parts = {"decoder": decoder, "optimizer": optimizer}
    return run.updates_of("decoder", parts, loss_of)


def take_over(decoder: nn.Module, other: dict[str, Tensor]) -> None:
    """What a decoder of another size has learned in the levels that both have."""
    own = decoder.state_dict()
    same = {name for name in other if name in own and own[name].shape == other[name].shape}
    decoder.load_state_dict({name: other[name] for name in same}, strict=False)


def train_autoencoder(pictures: Pictures, run: Run, batch: int = 8) -> bool:
    _, stored = stored_latents(pictures, run.folder)
    torch.manual_seed(run.seed)
    vae = new_autoencoder().to(run.device, memory_format=torch.channels_last)
    begin(run.folder, {"vae": vae})
    if (run.folder / "decoder.pt").exists():
        take_over(vae.decoder, read_checkpoint(run.folder / "decoder.pt", run.device)["decoder"])
    teacher = teacher_of(run.folder, run.device)
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), weight_decay=0.01, betas=(0.9, 0.99))
    samples = _samples(run.folder)

    def loss_of(update: int) -> tuple[Tensor, Figures]:
        latents, numbers = latents_to_decode(stored, samples, batch, run.generator(update))
        images = pictures.drawn(numbers).to(run.device)
        latents = latents.to(run.device, memory_format=torch.channels_last)
        with run.bfloat16():
            drawn = vae.decode(latents).sample.float()
        return decoding_error(drawn, images, teacher)

    parts = {"decoder": vae.decoder, "optimizer": optimizer}
    return run.updates_of("autoencoder", parts, loss_of)


def train_encoder(pictures: Pictures, run: Run, batch: int = 8) -> bool:
    _, stored = stored_latents(pictures, run.folder)
    torch.manual_seed(run.seed)
    vae = new_autoencoder().to(run.device, memory_format=torch.channels_last)
    begin(run.folder, {"vae": vae})
    optimizer = torch.optim.AdamW(vae.encoder.parameters(), weight_decay=0.01, betas=(0.9, 0.99))

    def loss_of(update: int) -> tuple[Tensor, Figures]:
        draw = run.generator(update)
        numbers = torch.randint(len(stored), (batch,), generator=draw).numpy()
        images = pictures.drawn(numbers).to(run.device, memory_format=torch.channels_last)
        codes = torch.from_numpy(stored[numbers]).float().to(run.device)
        with run.bfloat16():
            found = vae.encode(images).latent_dist.mode().float()
        return F.mse_loss(found, codes), {}

    parts = {"encoder": vae.encoder, "optimizer": optimizer}
    return run.updates_of("encoder", parts, loss_of)


# --- recogniser ----------------------------------------------------------------------------------

PARTS = ("object", "style", "ground")
LEAST_PX = 128  # of a drawing's side


def labelled_pictures(
    pictures: Pictures, size: int, draw: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Drawings of any size at any place, (size, 3, INPUT_PX, INPUT_PX), and their (size, 3) labels.

    Places are freer than the starter's own, so that a drawing is known wherever a model puts it.
    """
    labels = np.stack([draw.integers(0, count, size) for count in pictures.sizes[:3]], 1)
    images = []
    for concept, style, ground in labels:
        side = int(draw.integers(LEAST_PX, DRAWING_PX + 1))
        left, top = (int(draw.integers(0, SIZE_PX - side + 1)) for _ in range(2))
        place = Placement(side, left, top, bool(draw.integers(2)), 1.0)
        image = torch.from_numpy(pictures.grounds[ground].copy())
        images.append(pasted(image, pictures.drawing(concept, style, ground), place))
    small = F.adaptive_avg_pool2d(torch.stack(images) / 127.5 - 1, recogniser.INPUT_PX)
    return small, torch.from_numpy(labels)


def spoiled(images: Tensor, draw: torch.Generator) -> Tensor:
    """A little blurred, noisy and shifted in colour, as what a model draws."""
    shape = (len(images), 1, 1, 1)
    images = images + torch.rand(shape, generator=draw) * (F.avg_pool2d(images, 3, 1, 1) - images)
    tint = 0.06 * torch.randn((len(images), 3, 1, 1), generator=draw)
    level = 0.15 * torch.rand(shape, generator=draw)
    return images + tint + level * torch.randn(images.shape, generator=draw)


def train_recogniser(
    pictures: Pictures, run: Run, batch: int = 64, name: str = "recogniser"
) -> bool:
    """On rendered drawings alone; written to the folder `name` when it is done."""
    torch.manual_seed(run.seed)
    names = (pictures.concepts, STYLES, GROUNDS)
    network = recogniser.Network(*map(len, names)).to(run.device)
    if name != TEACHER:  # it must not be what the judge has become
        begin(run.folder, {"network": network})
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)

    def loss_of(update: int) -> tuple[Tensor, Figures]:
        draw = run.generator(update)
        numbers = np.random.default_rng(draw.initial_seed())
        images, labels = labelled_pictures(pictures, batch, numbers)
        labels = labels.to(run.device)
        with run.bfloat16():
            outputs = network(spoiled(images, draw).to(run.device))
        loss = sum(
            F.cross_entropy(output.float(), labels[:, column], label_smoothing=0.05)
            for column, output in enumerate(outputs)
        )
        right = {
            name: (output.argmax(1) == labels[:, column]).float().mean()
            for column, (name, output) in enumerate(zip(PARTS, outputs, strict=True))
        }
        return loss, right

    parts = {"network": network, "optimizer": optimizer}
    done = run.updates_of(name, parts, loss_of)
    if done:
        made = recogniser.Recogniser(network.eval().cpu(), *names)
        recogniser.save(made, run.folder / name)
    return done


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=(*UPDATES, "samples", "write", "unpack"))
    parser.add_argument("--folder", type=Path, default=BUILD_PATH)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--updates", type=int, help=f"default: {UPDATES}")
    parser.add_argument("--peak", type=float, help=f"of the learning rate; default: {PEAKS}")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop with a checkpoint after so many"
    )
    args = parser.parse_args(argv)
    if args.stage == "unpack":
        unpack(args.folder)
        return
    pictures = load(args.folder)
    updates = args.updates or UPDATES.get(args.stage, 0)
    deadline_s = time.monotonic() + 60 * args.minutes
    peak = args.peak or PEAKS.get(args.stage, 1e-3)
    run = Run(args.folder, updates, deadline_s, args.seed, args.device, peak)
    stages = {
        "diffusion": train_diffusion,
        "decoder": train_decoder,
        "autoencoder": train_autoencoder,
        "encoder": train_encoder,
        "recogniser": train_recogniser,
        "teacher": functools.partial(train_recogniser, name=TEACHER),
    }
    if args.stage == "samples":
        sample_latents(pictures, run, args.samples)
    elif args.stage == "write":
        print(f"Wrote {write(pictures, args.folder)}")
    elif not stages[args.stage](pictures, run):
        print(f"The time is up: the same command goes on with the {args.stage}.")


if __name__ == "__main__":
    main()
