"""Signal and noise in the gradients of pairs, by timestep and optimizer.

    python launch.py bench gradients --json FILE

The gradient of a pair is that of (error of the chosen picture - error of the rejected one) for an
untrained adapter. Over many pairs it has a common part, the taste, and a part of each pair's own:
other differences between the two pictures, and the noise of the draws. The table shows the common
share, |mean|² / mean of |gradient|² without bias, in thousandths: n picks give a signal-to-noise
ratio of about n times the share. First in bands of the timesteps, from least to most noise, then
over all of them and over the noisiest quarter; last with Adam's scaling, each parameter divided by
its own root mean square. All artists label the same pairs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from studio import models
from studio.bench import clicks, timing
from studio.bench.artists import Artist
from studio.bench.held_out import split_prompts
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
    """The adapter's parameters with a gradient before training."""
    return [
        value
        for name, value in denoiser.network.named_parameters()
        if value.requires_grad and "lora_B" in name
    ]


def gradients(
    denoiser: models.Denoiser, pairs: list[tuple[Trajectory, Trajectory]], draws: int, seed: int = 0
) -> Tensor:
    """(pairs, BANDS, parameters): of (left's error - right's error), `draws` timesteps per band.

    Of an untrained adapter, whose down-projections have no gradient yet: the parameters are those
    of the up-projections.
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
            positions = (band + torch.rand((1, draws), generator=draw)) / BANDS
            timesteps = (positions * count).long().expand(2, -1)
            noise = torch.randn((1, draws, *batch.latents.shape[2:]), generator=draw)
            noise = noise.expand(2, *noise.shape[1:])
            errors = velocity_errors(denoiser, batch, [0, 1], timesteps, noise).mean(1)
            values = torch.autograd.grad(errors[0] - errors[1], parameters)
            bands.append(torch.cat([value.flatten() for value in values]).cpu())
        rows.append(torch.stack(bands))
    return torch.stack(rows)


def common_share(rows: Tensor) -> float:
    """|mean|² / mean of |row|² of rows (N, parameters), without the bias of a finite N.

    |mean of N|² contains 1/N of every row's own square, which is subtracted.
    """
    count = len(rows)
    own = float(rows.square().sum())
    total = float(rows.sum(0).square().sum())
    return (total - own) / (count - 1) / own


def shares(all_gradients: Tensor, choices: Tensor) -> dict[str, float | list[float]]:
    """The common shares of `gradients` for choices (pairs,): 1 left, -1 right, 0 to omit a pair."""
    rows = -choices[:, None, None] * all_gradients
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


def chosen(artist: Artist, pictures: list[list[Image.Image]], prompts: list[str]) -> Tensor:
    """1 if the left of two pictures is preferred, -1 if the right is, 0 for a tie."""
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
    parser.add_argument("--draws", type=int, default=2, help="timesteps per pair and band")
    parser.add_argument("--artists", nargs="*", default=ARTISTS)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    if args.pairs < 2 or args.draws < 1:
        parser.error("at least two pairs with one timestep each are needed")
    artists = {name: clicks.load_artist(f"studio.bench.artists:{name}") for name in args.artists}
    denoiser = models.load("starter")
    settings = clicks.session_settings("diffusion_dpo", {}).sampling
    names, _ = split_prompts(recogniser.load(), seed=0)
    prompts = [names[number % len(names)] for number in range(args.pairs)]
    pairs = clicks.draw_asked(denoiser, prompts, range(args.pairs), settings, pictures=2)
    pictures = [pair.images for pair in pairs]
    values = gradients(denoiser, [tuple(pair.chains) for pair in pairs], args.draws)
    rows = [
        {"artist": name, "pairs": args.pairs, **shares(values, chosen(artist, pictures, prompts))}
        for name, artist in artists.items()
    ]
    print(table(rows))
    timing.write(args.json, {"draws": args.draws, "rows": rows})
    return 0
