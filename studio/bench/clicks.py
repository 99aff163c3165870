"""What tens of clicks teach: a simulated artist labels pairs, and tuned is compared with base.

    python launch.py bench clicks --artist FILE.py:FUNCTION --picks 48 --objective NAME --seeds 3

As live labelling would have it: a round after every 16 picks, over all picks so far, and the next
pairs from the newest adapter; a fifth of the picks held out of training. Then prompts that no pick
was about are drawn by both with the same seeds, and the artist says which is better.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from studio import models, sampling
from studio.evidence import wilson
from studio.settings import OBJECTIVES, SamplingSettings, SessionSettings, TrainingSettings
from studio.starter import recogniser
from studio.training import Training
from studio.trajectory import PairBatch, Trajectory

Artist = Callable[[Image.Image, str], float]

HELD_OUT_PROMPTS = 32
IMAGES_PER_PROMPT = 2
SAMPLE_BATCH = 16
MOST_SHOWN = 100  # pairs that an artist may find equal before the benchmark gives up


@dataclass(frozen=True)
class Comparison:
    """Scores of base and tuned on the same prompts and seeds, and what was recognised."""

    base_scores: list[float]
    tuned_scores: list[float]
    base_recognised: list[bool]
    tuned_recognised: list[bool]


def load_artist(reference: str) -> Artist:
    """The function of "module:function" or "path/to/file.py:function"."""
    place, separator, name = reference.rpartition(":")
    if not separator:
        raise SystemExit(f"--artist needs MODULE_OR_FILE.py:FUNCTION, not {reference!r}.")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise SystemExit(f"There is no file {place}.")
        spec = importlib.util.spec_from_file_location("artist", place)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise SystemExit(f"There is no module {place}.") from error
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise SystemExit(f"{place} has no function {name}.") from error


def split_prompts(objects: tuple[str, ...], seed: int) -> tuple[list[str], list[str]]:
    """Training prompts and held-out prompts; the latter are the same objects for every seed."""
    shuffled = list(objects)
    random.Random(20).shuffle(shuffled)
    held_out, training = shuffled[:HELD_OUT_PROMPTS], shuffled[HELD_OUT_PROMPTS:]
    random.Random(seed).shuffle(training)
    return training, held_out


def draw_pairs(
    denoiser: models.Denoiser, prompts: list[str], seeds: list[int], settings: SamplingSettings
) -> list[tuple[Trajectory, Trajectory]]:
    pairs = []
    for start in range(0, len(prompts), SAMPLE_BATCH // 2):
        part = slice(start, start + SAMPLE_BATCH // 2)
        pairs += sampling.sample_pairs(denoiser, prompts[part], seeds[part], settings)
    return pairs


def label(
    denoiser: models.Denoiser,
    pairs: list[tuple[Trajectory, Trajectory]],
    artist: Artist,
    noise: float,
    slips: random.Random,
) -> list[tuple[Trajectory, Trajectory]]:
    """(chosen, rejected) for the pairs that the artist does not find equal.

    In a share `noise` of them, drawn from `slips`, the artist picks the wrong one.
    """
    labelled = []
    for left, right in pairs:
        images = sampling.images(denoiser, [left, right])
        scores = [artist(image, left.prompt) for image in images]
        if scores[0] != scores[1]:
            prefers_left = (scores[0] > scores[1]) != (slips.random() < noise)
            labelled.append((left, right) if prefers_left else (right, left))
    return labelled


def teach(
    denoiser: models.Denoiser,
    artist: Artist,
    prompts: list[str],
    picks: int,
    noise: float,
    session: SessionSettings,
    seed: int,
) -> None:
    """Picks and rounds as in live labelling; leaves the newest adapter attached to the denoiser."""
    denoiser.remove_adapter()
    settings = session.training
    labelled: list[tuple[Trajectory, Trajectory]] = []
    shown, slips = 0, random.Random(seed)
    while len(labelled) < picks:
        due = min(len(labelled) + session.round_every, picks)
        while len(labelled) < due:  # a pair that the artist finds equal is replaced by another
            numbers = range(shown, shown + due - len(labelled))
            names = [prompts[number % len(prompts)] for number in numbers]
            seeds = [1_000_000 * (seed + 1) + number for number in numbers]
            pairs = draw_pairs(denoiser, names, seeds, session.sampling)
            labelled += label(denoiser, pairs, artist, noise, slips)
            shown += len(numbers)
            if shown > MOST_SHOWN + 2 * len(labelled):
                raise SystemExit("The artist finds nearly all pairs equal: nothing to learn from.")
        every = round(1 / settings.held_out_fraction) if settings.held_out_fraction else 0
        kept = [pair for i, pair in enumerate(labelled, 1) if not every or i % every]
        training = Training(denoiser, PairBatch.of(kept), settings)
        *_, metrics = training
        print(
            f"  seed {seed}: {len(labelled)} picks, {metrics.updates} updates, "
            f"accuracy {metrics.accuracy:.2f}, margin {metrics.margin:.2f}",
            flush=True,
        )


def compare(
    denoiser: models.Denoiser,
    judge: recogniser.Recogniser,
    artist: Artist,
    prompts: list[str],
    settings: SamplingSettings,
) -> tuple[Comparison, list[Image.Image], list[Image.Image]]:
    """Base and tuned on every held-out prompt, same seeds."""
    names = [prompt for prompt in prompts for _ in range(IMAGES_PER_PROMPT)]
    seeds = [9_000_000 + i for i in range(len(names))]

    def draw() -> list[Image.Image]:
        images: list[Image.Image] = []
        for start in range(0, len(names), SAMPLE_BATCH):
            part = slice(start, start + SAMPLE_BATCH)
            chains = sampling.sample(denoiser, names[part], seeds[part], settings)
            images += sampling.images(denoiser, chains)
        return images

    tuned = draw()
    with denoiser.adapter_off():
        base = draw()
    comparison = Comparison(
        base_scores=[artist(image, name) for image, name in zip(base, names, strict=True)],
        tuned_scores=[artist(image, name) for image, name in zip(tuned, names, strict=True)],
        base_recognised=(judge.object_ranks(base, names) == 0).tolist(),
        tuned_recognised=(judge.object_ranks(tuned, names) == 0).tolist(),
    )
    return comparison, base, tuned


def summarise(comparisons: list[Comparison], seconds: float) -> dict[str, float]:
    """The figures over all seeds."""
    base = torch.tensor([s for c in comparisons for s in c.base_scores], dtype=torch.float64)
    tuned = torch.tensor([s for c in comparisons for s in c.tuned_scores], dtype=torch.float64)
    wins = float((tuned > base).sum() + 0.5 * (tuned == base).sum())
    low, high = wilson(wins, len(base))
    deviation = max(float(base.std()), 1e-12)

    def share(lists: list[list[bool]]) -> float:
        flat = [value for values in lists for value in values]
        return sum(flat) / len(flat)

    return {
        "win_rate": wins / len(base),
        "win_rate_low": low,
        "win_rate_high": high,
        "shift_sd": float(tuned.mean() - base.mean()) / deviation,
        "score_base": float(base.mean()),
        "score_tuned": float(tuned.mean()),
        "object_accuracy_base": share([c.base_recognised for c in comparisons]),
        "object_accuracy_tuned": share([c.tuned_recognised for c in comparisons]),
        "comparisons": len(base),
        "seconds": seconds,
    }


def session_settings(objective: str, overrides: dict) -> SessionSettings:
    """The studio's defaults on the starter, with an objective's preset."""
    training = dataclasses.replace(OBJECTIVES[objective], **overrides)
    return SessionSettings(prompts=("unused",), training=training)


def sheet(base: list[Image.Image], tuned: list[Image.Image], columns: int = 16) -> Image.Image:
    """Rows of base images, each with the tuned ones of the same seeds below."""
    size_px = base[0].width
    rows = -(-len(base) // columns)
    picture = Image.new("RGB", (columns * size_px, rows * (2 * size_px + 8)), "white")
    for index, pair in enumerate(zip(base, tuned, strict=True)):
        left, top = index % columns * size_px, index // columns * (2 * size_px + 8)
        for row, image in enumerate(pair):
            picture.paste(image, (left, top + row * size_px))
    return picture


def run(
    artist: Artist,
    picks: int,
    session: SessionSettings,
    seeds: int,
    noise: float = 0.0,
    sheet_path: Path | None = None,
) -> dict[str, float]:
    judge = recogniser.load()
    denoiser = models.load(session.base_model)
    comparisons = []
    started_s = time.monotonic()
    for seed in range(seeds):
        training_prompts, held_out_prompts = split_prompts(judge.objects, seed)
        seeded = dataclasses.replace(session.training, seed=seed)
        seeded_session = dataclasses.replace(session, training=seeded)
        teach(denoiser, artist, training_prompts, picks, noise, seeded_session, seed)
        comparison, base, tuned = compare(
            denoiser, judge, artist, held_out_prompts, session.sampling
        )
        comparisons.append(comparison)
        partial = summarise([comparison], time.monotonic() - started_s)
        print(f"  seed {seed}: win rate {partial['win_rate']:.2f}", flush=True)
        if sheet_path and seed == 0:
            sheet(base, tuned).save(sheet_path)
    return summarise(comparisons, time.monotonic() - started_s)


def report(figures: dict[str, float], objective: str, picks: int) -> str:
    f = figures
    return (
        f"{objective}, {picks} picks: win rate {f['win_rate']:.2f} "
        f"({f['win_rate_low']:.2f} to {f['win_rate_high']:.2f}) in {f['comparisons']} comparisons "
        f"on unseen prompts; taste score {f['score_base']:+.3f} -> {f['score_tuned']:+.3f}, "
        f"{f['shift_sd']:+.2f} sd; object recognised {f['object_accuracy_base']:.0%} -> "
        f"{f['object_accuracy_tuned']:.0%}; {f['seconds']:.0f} s"
    )


def number(text: str) -> int | float | str | None:
    try:
        return json.loads(text)
    except ValueError:
        return text


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py bench clicks", description=__doc__)
    parser.add_argument(
        "--artist",
        default="studio.bench.artists:blue_background",
        help="MODULE_OR_FILE.py:FUNCTION",
    )
    parser.add_argument("--picks", type=int, default=48)
    parser.add_argument("--noise", type=float, default=0.0, help="share of picks that are wrong")
    parser.add_argument(
        "--objective", choices=tuple(OBJECTIVES), default=TrainingSettings().objective
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--sheet", type=Path, help="write base above tuned pictures of seed 0 here")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="change settings of training"
    )
    args = parser.parse_args(argv)
    if args.picks < 1 or args.seeds < 1:
        parser.error("--picks and --seeds must be at least 1")
    if not 0 <= args.noise <= 0.5:
        parser.error("--noise must lie between 0 and 0.5")
    overrides = {key: number(value) for key, _, value in (s.partition("=") for s in args.set)}
    session = session_settings(args.objective, overrides)
    artist = load_artist(args.artist)
    figures = run(artist, args.picks, session, args.seeds, args.noise, args.sheet)
    print(report(figures, args.objective, args.picks))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
