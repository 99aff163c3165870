"""Do picks teach more if a small preference model, fitted to them, labels further pairs?

    python launch.py bench amplified --artists symmetric flat_style --picks 16

`studio.maths.preference_head` is fitted to the picks. It labels pairs that the base model draws,
and a round learns from both; a labelled pair counts as much as the model is sure of it (SmPO, arXiv
2506.02698). Beside it stand rounds on the picks alone, one with the same number of updates.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio import models
from studio.bench import clicks, timing
from studio.bench.artists import Artist
from studio.bench.curves import ARTISTS, artist_named
from studio.bench.held_out import (
    compare,
    draw_held_out,
    draw_held_out_by_base,
    split_prompts,
    summarise,
)
from studio.engine import recogniser
from studio.engine.training import Training
from studio.engine.trajectory import PairBatch
from studio.maths import preference_head
from studio.settings import SessionSettings, TrainingSettings

SIDE_PX = 32  # at which pictures are measured
PICKED, FURTHER = 1_000_000, 5_000_000  # first seeds


def picture_measures(images: list[Image.Image]) -> Tensor:
    """(N, 30): `preference_head.measures` of red, green, blue, saturation and value."""
    small = [image.convert("RGB").resize((SIDE_PX,) * 2, Image.Resampling.BOX) for image in images]
    arrays = [
        np.concatenate([np.asarray(each), np.asarray(each.convert("HSV"))[..., 1:]], 2)
        for each in small
    ]
    channels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    return preference_head.measures(channels)


@dataclass(frozen=True)
class Amplified:
    """Pairs that the picks labelled, the further pairs, how sure the model is of each of these, and
    in how many of them the artist would have chosen the same."""

    picked: list
    further: list
    certainty: list[float]
    agreement: float


def amplify(
    denoiser: models.Denoiser,
    artist: Artist,
    prompts: list[str],
    picks: int,
    further: int,
    session: SessionSettings,
) -> Amplified:
    def drawn(first_seed: int, count: int) -> list[clicks.Asked]:
        names = tuple(prompts[number % len(prompts)] for number in range(count))
        seeds = tuple(range(first_seed, first_seed + count))
        return clicks.draw_asked_by_base(denoiser, names, seeds, session.sampling, 2)

    asked, more = drawn(PICKED, picks), drawn(FURTHER, further)
    found = picture_measures([image for each in (*asked, *more) for image in each.images])
    scaled = (found - found.mean(0)) / found.std(0).clamp(min=1e-6)
    chains = [chain for each in (*asked, *more) for chain in each.chains]
    of = {id(chain): row for chain, row in zip(chains, scaled, strict=True)}
    labelled = clicks.label(asked, artist, 0.0, random.Random(0))
    picked = [pair for click in labelled for pair in click]
    sides = [torch.stack([of[id(pair[side])] for pair in picked]) for side in (0, 1)]
    weights = preference_head.fit(*sides)
    pairs, certainty, agreed = [], [], 0
    for left, right in (each.chains for each in more):
        sure = float(torch.sigmoid((of[id(left)] - of[id(right)]) @ weights))
        pairs.append((left, right) if sure > 0.5 else (right, left))
        certainty.append(max(sure, 1 - sure))
    for pair, each in zip(pairs, more, strict=True):
        scores = [artist(image, pair[0].prompt) for image in each.images]
        better = each.chains[scores.index(max(scores))]
        agreed += better is pair[0]
    return Amplified(picked, pairs, certainty, agreed / max(1, further))


def run(artist: Artist, picks: int, further: int, seed: int) -> list[dict]:
    """The figures of the three rounds."""
    judge = recogniser.load()
    session = clicks.session_settings(TrainingSettings().objective, {"seed": seed})
    denoiser = clicks.load_base(session.base_model)
    prompts, held_out = split_prompts(judge, seed)
    base = draw_held_out_by_base(denoiser, held_out, session.sampling)
    denoiser.adapters.remove()
    made = amplify(denoiser, artist, prompts, picks, further, session)
    alone = PairBatch.of(made.picked)
    certainty = [1.0] * len(made.picked) + made.certainty
    both = PairBatch.of(made.picked + made.further, certainty=certainty)
    usual = session.training
    longer = replace(usual, updates_base=2 * usual.updates(len(made.picked)), updates_per_pick=0)

    def figures(way: str, pairs: PairBatch, settings: TrainingSettings) -> dict:
        denoiser.adapters.remove()
        list(Training(denoiser, pairs, settings))
        tuned = draw_held_out(denoiser, held_out, session.sampling)
        row = summarise([compare(base, tuned, held_out, judge, artist)])
        return {"way": way, "picks": picks, "agreement": made.agreement} | row

    rows = [
        figures("picks", alone, usual),
        figures("picks, twice the updates", alone, longer),
        figures("amplified, twice the updates", both, longer),
    ]
    denoiser.adapters.remove()
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="launch.py bench amplified",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--artists", nargs="+", choices=ARTISTS, default=ARTISTS)
    parser.add_argument("--picks", type=int, default=16)
    parser.add_argument("--further", type=int, default=96, help="pairs that the model labels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    rows = []
    for name in args.artists:
        for row in run(artist_named(name), args.picks, args.further, args.seed):
            rows.append({"artist": name} | row)
            print(
                f"{name}, {row['way']}: wins {row['win_rate']:.2f}, {row['shift_sd']:+.2f} sd, "
                f"objects {row['object_accuracy_base']:.0%} → {row['object_accuracy_tuned']:.0%}, "
                f"diversity {row['diversity']:.2f}; the model agrees in {row['agreement']:.2f}",
                flush=True,
            )
    timing.write(args.json, rows)
    return 0
