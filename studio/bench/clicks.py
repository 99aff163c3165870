"""The gain from tens of clicks: a simulated artist labels pairs, then compares tuned with base.

    python launch.py bench clicks --artist FILE.py:FUNCTION --picks 48 --objective NAME --seeds 3

As in live labelling, a round trains on all picks so far, without the fifth that is held out. Then
both models draw prompts without picks, with the same seeds, and the artist chooses the better one.
With several numbers of picks, each is measured on the way to the largest. A pick chooses the better
of two pictures, or with `--pictures 4` the best of four. With `--set
favourites_alone=true` the artist stars the best quarter of the pictures instead, and a pick is a
star. The base model draws the pictures, so rounds in between would change nothing and are skipped;
with `--pairs-by newest` the newest adapter draws them, of which there is one after every 16 picks.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from studio import judges, models
from studio.bench import timing
from studio.bench.artists import Artist
from studio.bench.baselines import PRESETS, objective_of
from studio.bench.held_out import (
    SAMPLE_BATCH,
    Comparison,
    compare,
    draw_held_out,
    draw_held_out_by_base,
    sheet,
    split_prompts,
    summarise,
)
from studio.engine import recogniser, sampling
from studio.engine.objective import Objective
from studio.engine.orders import counted
from studio.engine.training import Metrics, Training
from studio.engine.trajectory import PairBatch, Trajectory
from studio.prompting.mismatched import mismatched
from studio.settings import SamplingSettings, SessionSettings, TrainingSettings

MOST_SHOWN = 100  # questions without a best picture before the benchmark gives up

load_base = cache(models.load)  # one object, which is the key of the cached drawings


class Asked(NamedTuple):
    """The pictures of a question to the artist, with their trajectories."""

    chains: list[Trajectory]
    images: list[Image.Image]


# The pairs of a click: (chosen, rejected) for each picture that was not clicked. A favourite may
# have none beside it.
Click = list[tuple[Trajectory, Trajectory | None]]


def load_artist(reference: str) -> Artist:
    """As `judges.load`, for a benchmark: whoever does not exist ends it."""
    try:
        return judges.load(reference)
    except judges.JudgeError as error:
        raise SystemExit(str(error)) from error


def draw_asked(
    denoiser: models.Denoiser,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplingSettings,
    pictures: int,
) -> list[Asked]:
    """Draw `pictures` of each prompt with the denoiser in its present state."""
    asked = []
    at_once = max(1, SAMPLE_BATCH // pictures)
    for start in range(0, len(prompts), at_once):
        part = slice(start, start + at_once)
        groups = sampling.sample_groups(
            denoiser, list(prompts[part]), list(seeds[part]), settings, pictures
        )
        images = sampling.images(denoiser, [chain for group in groups for chain in group])
        asked += [
            Asked(group, images[index * pictures : (index + 1) * pictures])
            for index, group in enumerate(groups)
        ]
    return asked


@cache  # many artists label the same pictures of the base
def draw_asked_by_base(
    denoiser: models.Denoiser,
    prompts: tuple[str, ...],
    seeds: tuple[int, ...],
    settings: SamplingSettings,
    pictures: int,
) -> list[Asked]:
    with denoiser.adapters.off():
        return draw_asked(denoiser, prompts, seeds, settings, pictures)


def label(asked: list[Asked], artist: Artist, noise: float, slips: random.Random) -> list[Click]:
    """The artist's clicks on the best picture of each question that has one.

    A share `noise` of the clicks, chosen by `slips`, is on another picture.
    """
    clicks = []
    for chains, images in asked:
        scores = [artist(image, chains[0].prompt) for image in images]
        best = max(range(len(scores)), key=scores.__getitem__)
        if scores.count(scores[best]) > 1:
            continue
        others = [index for index in range(len(scores)) if index != best]
        clicked = slips.choice(others) if slips.random() < noise else best
        clicks.append(
            [(chains[clicked], chain) for index, chain in enumerate(chains) if index != clicked]
        )
    return clicks


def star(asked: list[Asked], artist: Artist, least: float) -> list[Click]:
    """A click for each picture that the artist finds better than `least`: a favourite, against
    those shown beside it that are none."""
    clicks = []
    for chains, images in asked:
        good = [artist(image, chains[0].prompt) > least for image in images]
        others = [chain for chain, is_good in zip(chains, good, strict=True) if not is_good]
        clicks += [
            [(chain, other) for other in others or [None]]
            for chain, is_good in zip(chains, good, strict=True)
            if is_good
        ]
    return clicks


def teach(
    denoiser: models.Denoiser,
    artist: Artist,
    prompts: list[str],
    picks: Sequence[int],
    noise: float,
    session: SessionSettings,
    seed: int,
    objective: Objective | None = None,
) -> Iterator[tuple[int, float]]:
    """Label and train as in live labelling: yields each of `picks`, with its round's seconds.

    Whenever this yields, the newest adapter is attached to the denoiser, and stays attached.
    """
    denoiser.adapters.remove()
    draw = draw_asked_by_base if session.pairs_by == "base" else draw_asked
    labelled: list[Click] = []
    least = None  # that a favourite must surpass
    shown, slips = 0, random.Random(seed)
    for due in rounds(picks, session):
        while len(labelled) < due:  # questions without a best picture are replaced
            numbers = range(shown, shown + due - len(labelled))
            names = tuple(prompts[number % len(prompts)] for number in numbers)
            seeds = tuple(1_000_000 * (seed + 1) + number for number in numbers)
            asked = draw(denoiser, names, seeds, session.sampling, session.pictures)
            if session.training.favourites_alone:
                if least is None:
                    least = _least_of_favourites(asked, artist)
                labelled = (labelled + star(asked, artist, least))[:due]
            else:
                labelled += label(asked, artist, noise, slips)
            shown += len(numbers)
            if shown > MOST_SHOWN + 2 * len(labelled):
                raise SystemExit(
                    "The artist finds nearly all pictures equal: nothing to learn from."
                )
        started_s = time.monotonic()
        metrics = learn(denoiser, labelled, session.training, objective)
        print(
            f"  seed {seed}: {len(labelled)} picks, {metrics.updates} updates, "
            f"accuracy {metrics.accuracy:.2f}, margin {metrics.margin:.2f}",
            flush=True,
        )
        if due in picks:
            yield due, time.monotonic() - started_s


def _least_of_favourites(asked: list[Asked], artist: Artist) -> float:
    """What three quarters of the pictures do not surpass."""
    scores = [artist(image, chains[0].prompt) for chains, images in asked for image in images]
    return sorted(scores)[len(scores) * 3 // 4]


def rounds(picks: Sequence[int], session: SessionSettings) -> list[int]:
    """The numbers of picks after which a round trains; the last is the largest of `picks`.

    Every round begins with the base and trains on all picks so far. If its adapter does not draw
    the next pairs, it can be skipped.
    """
    if session.pairs_by == "base":
        return sorted(picks)
    return sorted({*range(session.round_every, max(picks), session.round_every), *picks})


def learn(
    denoiser: models.Denoiser,
    labelled: list[Click],
    settings: TrainingSettings,
    objective: Objective | None = None,
) -> Metrics:
    """Train a round without the held-out picks; gives the metrics of its last update."""
    every = round(1 / settings.held_out_fraction) if settings.held_out_fraction else 0
    training = [click for i, click in enumerate(labelled, 1) if not every or i % every]
    pairs = [pair for click in training for pair in click]
    batch = PairBatch.of(
        pairs,
        wrong_prompts=mismatched if settings.keep_to_prompt else None,
        prompt_weight=settings.keep_to_prompt,
    )
    batch = counted(batch, settings.orders)
    *_, metrics = Training(denoiser, batch, settings, objective=objective)
    return metrics


def session_settings(objective: str, overrides: dict) -> SessionSettings:
    """The studio's defaults on the starter, with a preset of `PRESETS`."""
    training = dataclasses.replace(PRESETS[objective], **overrides)
    return SessionSettings(prompts=("unused",), training=training)


def run(
    artist: Artist,
    picks: list[int],
    session: SessionSettings,
    seeds: list[int],
    noise: float = 0.0,
    sheet_path: Path | None = None,
    objective: Objective | None = None,
) -> list[dict[str, float]]:
    """The figures at each number of picks, over all seeds; seconds are those of their rounds.

    objective: of a baseline; None takes that of the settings.
    """
    judge = recogniser.load()
    denoiser = load_base(session.base_model)
    comparisons: dict[int, list[Comparison]] = {count: [] for count in picks}
    seconds = dict.fromkeys(picks, 0.0)
    for seed in seeds:
        training_prompts, held_out = split_prompts(judge, seed)
        base = draw_held_out_by_base(denoiser, held_out, session.sampling)
        seeded = dataclasses.replace(session.training, seed=seed)
        seeded_session = dataclasses.replace(session, training=seeded)
        for count, learning_s in teach(
            denoiser, artist, training_prompts, picks, noise, seeded_session, seed, objective
        ):
            tuned = draw_held_out(denoiser, held_out, session.sampling)
            comparison = compare(base, tuned, held_out, judge, artist)
            comparisons[count].append(comparison)
            seconds[count] += learning_s
            win_rate = summarise([comparison])["win_rate"]
            print(f"  seed {seed}: {count} picks, win rate {win_rate:.2f}", flush=True)
        if sheet_path and seed == seeds[0]:
            sheet(base.plain, tuned.plain).save(sheet_path)
    peak_mb = timing.peak_memory_mb(denoiser.device)
    return [
        {
            "picks": count,
            **summarise(comparisons[count]),
            "seconds": seconds[count],
            "peak_memory_mb": peak_mb,
            "device": timing.device_name(denoiser.device),
        }
        for count in picks
    ]


def report(figures: dict[str, float], objective: str) -> str:
    f = figures
    memory = f", {f['peak_memory_mb']:.0f} MB" if f["peak_memory_mb"] else ""
    return (
        f"{objective}, {f['picks']} picks: win rate {f['win_rate']:.2f} "
        f"({f['win_rate_low']:.2f} to {f['win_rate_high']:.2f}) in {f['comparisons']} comparisons "
        f"on unseen prompts; taste score {f['score_base']:+.3f} -> {f['score_tuned']:+.3f}, "
        f"{f['shift_sd']:+.2f} sd; object recognised {f['object_accuracy_base']:.0%} -> "
        f"{f['object_accuracy_tuned']:.0%}, named style {f['style_accuracy_base']:.0%} -> "
        f"{f['style_accuracy_tuned']:.0%}, named ground {f['ground_accuracy_base']:.0%} -> "
        f"{f['ground_accuracy_tuned']:.0%}; diversity {f['diversity']:.2f} and drift "
        f"{f['drift']:.2f} of the base's; {f['seconds']:.0f} s{memory}"
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
    parser.add_argument("--picks", type=int, nargs="+", default=[48], help="when to measure")
    parser.add_argument("--noise", type=float, default=0.0, help="share of picks that are wrong")
    parser.add_argument("--objective", choices=tuple(PRESETS), default=TrainingSettings().objective)
    parser.add_argument(
        "--pairs-by", choices=("base", "newest"), default=SessionSettings().pairs_by
    )
    parser.add_argument(
        "--pictures", type=int, default=2, help="per question; a pick is the best (default: 2)"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument(
        "--sheet", type=Path, help="write pictures of seed 0, base above tuned, here"
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="change training settings"
    )
    args = parser.parse_args(argv)
    picks = sorted(set(args.picks))
    if picks[0] < 1 or args.seeds < 1:
        parser.error("--picks and --seeds must be at least 1")
    between = [count for count in picks[:-1] if count % SessionSettings().round_every]
    if between and args.pairs_by == "newest":
        every = SessionSettings().round_every
        parser.error(f"--picks must be multiples of {every}: a round comes every {every} picks")
    if not 2 <= args.pictures <= 9:
        parser.error("--pictures must lie between 2 and 9")
    if not 0 <= args.noise <= 0.5:
        parser.error("--noise must lie between 0 and 0.5")
    overrides = {key: number(value) for key, _, value in (s.partition("=") for s in args.set)}
    session = dataclasses.replace(
        session_settings(args.objective, overrides), pairs_by=args.pairs_by, pictures=args.pictures
    )
    artist = load_artist(args.artist)
    objective = objective_of(args.objective)
    seeds = list(range(args.seeds))
    figures = run(artist, picks, session, seeds, args.noise, args.sheet, objective)
    for row in figures:
        print(report(row, args.objective))
    timing.write(args.json, figures[0] if len(figures) == 1 else figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
