"""How much of a pair's gradient is taste, and how much chance: by timestep, and by optimiser.

    python launch.py bench gradients --json FILE

What an untrained adapter would learn from a pair is the gradient of (error of the chosen picture -
error of the rejected one). Over many pairs it has a part that all share, which is the taste, and a
part that is each pair's own: whatever else the two pictures differed in, and the noise that they
were looked at with. Printed is the share of what all have in common, |mean|² / mean of |gradient|²
without bias, in thousandths: n picks turn it into a signal-to-noise ratio of about n times the
share. First in bands of the timesteps, from the least noise to the most, then over all of them and
over the noisiest quarter; last as Adam would have it, each parameter divided by its own root mean
square. One set of pairs serves all artists, who differ in what they choose of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from studio import models
from studio.bench import clicks, timing
from studio.engine import recogniser
from studio.engine.estimators import velocity_errors
from studio.engine.trajectory import PairBatch, Trajectory
from studio.settings import TrainingSettings

BANDS = 8
NOISIEST_BANDS = 2  # of the eight: a quarter
ARTISTS = (
    "blue_background",
    "bright",
    "saturated",
    "compressible",
    "symmetric",
    "flat_style",
    "ink_style",
)


def up_projections(denoiser: models.Denoiser) -> list[torch.nn.Parameter]:
    """Those of the adapter's parameters that have a gradient before it is trained."""
    return [
        value
        for name, value in denoiser.unet.named_parameters()
        if value.requires_grad and "lora_B" in name
    ]


def gradients(
    denoiser: models.Denoiser, pairs: list[tuple[Trajectory, Trajectory]], draws: int, seed: int = 0
) -> Tensor:
    """(pairs, BANDS, parameters): of (left's error - right's error), `draws` timesteps in a band.

    Of an untrained adapter, whose down-projections have no gradient yet: the parameters are all of
    the up-projections.
    """
    denoiser.adapters.new(TrainingSettings(seed=seed))
    parameters = up_projections(denoiser)
    count = denoiser.scheduler.config.num_train_timesteps
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for left, right in pairs:
        batch = PairBatch.of([(left, right)])
        bands = []
        for band in range(BANDS):
            places = (band + torch.rand((1, draws), generator=draw)) / BANDS
            timesteps = (places * count).long().expand(2, -1)
            noise = torch.randn((1, draws, *batch.latents.shape[2:]), generator=draw)
            noise = noise.expand(2, *noise.shape[1:])
            errors = velocity_errors(denoiser, batch, [0, 1], timesteps, noise).mean(1)
            found = torch.autograd.grad(errors[0] - errors[1], parameters)
            bands.append(torch.cat([value.flatten() for value in found]).cpu())
        rows.append(torch.stack(bands))
    return torch.stack(rows)


def common_share(rows: Tensor) -> float:
    """|mean|² / mean of |row|² of rows (N, parameters), without the bias of so few.

    |mean of N|² holds 1/N of every row's own square; the products of different rows do not.
    """
    count = len(rows)
    own = float(rows.square().sum())
    together = float(rows.sum(0).square().sum())
    return (together - own) / (count - 1) / own


def shares(found: Tensor, choices: Tensor) -> dict[str, float | list[float]]:
    """Of `gradients` and choices (pairs,): 1 for left, -1 for right, 0 to leave a pair out."""
    rows = -choices[:, None, None] * found
    rows = rows[choices != 0]

    def as_adam(values: Tensor) -> Tensor:
        return values / values.square().mean(0).sqrt().clamp(min=1e-12)

    all_bands, noisiest = rows.mean(1), rows[:, -NOISIEST_BANDS:].mean(1)
    return {
        "bands": [common_share(rows[:, band]) for band in range(BANDS)],
        "all": common_share(all_bands),
        "noisiest": common_share(noisiest),
        "all_adam": common_share(as_adam(all_bands)),
        "noisiest_adam": common_share(as_adam(noisiest)),
    }


def chosen(artist: clicks.Artist, pictures: list[list[Image.Image]], prompts: list[str]) -> Tensor:
    """1 where the left of two pictures is preferred, -1 where the right is, 0 where they tie."""
    scores = [
        [artist(image, prompt) for image in both]
        for both, prompt in zip(pictures, prompts, strict=True)
    ]
    return torch.tensor([float((left > right) - (left < right)) for left, right in scores])


def table(rows: list[dict]) -> str:
    """Markdown, in thousandths."""
    heads = [f"{band}/{BANDS}" for band in range(1, BANDS + 1)]
    lines = [
        f"| artist | {' | '.join(heads)} | all | noisiest quarter | all, Adam | quarter, Adam |",
        "|" + "---|" * (BANDS + 5),
    ]
    for row in rows:
        values = [
            *row["bands"],
            *(row[n] for n in ("all", "noisiest", "all_adam", "noisiest_adam")),
        ]
        cells = " | ".join(f"{1000 * value:.1f}" for value in values)
        lines.append(f"| {row['artist'].replace('_', ' ')} | {cells} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py bench gradients", description=__doc__)
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--draws", type=int, default=2, help="timesteps of a pair in a band")
    parser.add_argument("--artists", nargs="*", default=ARTISTS)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    if args.pairs < 2 or args.draws < 1:
        parser.error("at least two pairs, and one timestep of each, are needed")
    artists = {name: clicks.load_artist(f"studio.bench.artists:{name}") for name in args.artists}
    denoiser = models.load("starter")
    settings = clicks.session_settings("diffusion_dpo", {}).sampling
    names, _ = clicks.split_prompts(recogniser.load(), seed=0)
    prompts = [names[number % len(names)] for number in range(args.pairs)]
    pairs = clicks.draw_asked(denoiser, prompts, range(args.pairs), settings, pictures=2)
    pictures = [pair.images for pair in pairs]
    found = gradients(denoiser, [tuple(pair.chains) for pair in pairs], args.draws)
    rows = [
        {"artist": name, "pairs": args.pairs, **shares(found, chosen(artist, pictures, prompts))}
        for name, artist in artists.items()
    ]
    print(table(rows))
    timing.write(args.json, {"draws": args.draws, "rows": rows})
    return 0
