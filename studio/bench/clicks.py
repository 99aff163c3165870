"""What tens of clicks teach: a simulated artist labels pairs, and tuned is compared with base.

    python launch.py bench clicks --artist FILE.py:FUNCTION --picks 48 --objective NAME --seeds 3

As live labelling would have it: a round over all picks so far, a fifth of them held out of
training. Then prompts that no pick was about are drawn by both with the same seeds, and the artist
says which is better. With several numbers of picks, each is looked at on the way to the largest.
A pick says which of two pictures is better, or with `--pictures 4` which of four is best. The
pictures are drawn by the base model, so that rounds in between would change nothing and are left
out; or with `--pairs-by newest` by the newest adapter, of which there is one after every 16 picks.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from studio import models
from studio.bench import timing
from studio.engine import collapse, recogniser, sampling
from studio.engine.training import Metrics, Training
from studio.engine.trajectory import PairBatch, Trajectory
from studio.settings import (
    BASELINES,
    OBJECTIVES,
    SamplingSettings,
    SessionSettings,
    TrainingSettings,
)
from studio.starter.scenes import caption
from studio.statistics import wilson

Artist = Callable[[Image.Image, str], float]

HELD_OUT_PROMPTS = 32
IMAGES_PER_PROMPT = 2
NAMED_PROMPTS = 20  # that name style and ground too
SAMPLE_BATCH = 16
MOST_SHOWN = 100  # times that an artist may find no best before the benchmark gives up
PRESETS = {**OBJECTIVES, **BASELINES}

load_base = cache(models.load)  # with it goes all that is drawn by it and kept


class Asked(NamedTuple):
    """The pictures of a prompt among which the artist clicks one, and how they came to be."""

    chains: list[Trajectory]
    images: list[Image.Image]


# What a click says: (chosen, rejected) for each of the pictures that were not clicked.
Click = list[tuple[Trajectory, Trajectory]]


@dataclass(frozen=True)
class HeldOut:
    """What base and tuned are compared on: objects, and (object, style, ground) by name."""

    objects: tuple[str, ...]
    named: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Drawn:
    """Pictures of what is held out: `IMAGES_PER_PROMPT` of each object, one of each named."""

    plain: list[Image.Image]
    named: list[Image.Image]


@dataclass(frozen=True)
class Comparison:
    """Scores of base and tuned on the same prompts and seeds, and what was recognised.

    The recognised are lists of yes and no by what was looked for: "object" in the pictures of
    objects, "style" and "ground" in those whose prompts name them. `checks` are those of the brake.
    """

    base_scores: list[float]
    tuned_scores: list[float]
    base_recognised: dict[str, list[bool]]
    tuned_recognised: dict[str, list[bool]]
    checks: collapse.Checks


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


def split_prompts(judge: recogniser.Recogniser, seed: int) -> tuple[list[str], HeldOut]:
    """Training prompts, and what is held out, which is the same for every seed."""
    shuffled = list(judge.objects)
    random.Random(20).shuffle(shuffled)
    held_out, training = shuffled[:HELD_OUT_PROMPTS], shuffled[HELD_OUT_PROMPTS:]
    random.Random(seed).shuffle(training)
    grounds = [g for g in judge.grounds for _ in judge.styles]  # every style on every ground
    styles = list(judge.styles) * len(judge.grounds)
    named = zip(held_out[:NAMED_PROMPTS], styles, grounds, strict=False)
    return training, HeldOut(tuple(held_out), tuple(named))


def draw_asked(
    denoiser: models.Denoiser,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplingSettings,
    pictures: int,
) -> list[Asked]:
    """As the denoiser is switched now: `pictures` of each prompt."""
    asked = []
    at_once = max(1, SAMPLE_BATCH // pictures)
    for start in range(0, len(prompts), at_once):
        part = slice(start, start + at_once)
        groups = sampling.sample_groups(
            denoiser, list(prompts[part]), list(seeds[part]), settings, pictures
        )
        images = sampling.images(denoiser, [chain for group in groups for chain in group])
        asked += [
            Asked(group, images[place * pictures : (place + 1) * pictures])
            for place, group in enumerate(groups)
        ]
    return asked


@cache  # many artists look at the same pictures of the base, one after the other
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
    """What the artist clicks, where one of the pictures is the best.

    In a share `noise` of the cases, drawn from `slips`, it is another than the best.
    """
    clicks = []
    for chains, images in asked:
        scores = [artist(image, chains[0].prompt) for image in images]
        best = max(range(len(scores)), key=scores.__getitem__)
        if scores.count(scores[best]) > 1:
            continue
        others = [place for place in range(len(scores)) if place != best]
        clicked = slips.choice(others) if slips.random() < noise else best
        clicks.append(
            [(chains[clicked], chain) for at, chain in enumerate(chains) if at != clicked]
        )
    return clicks


def teach(
    denoiser: models.Denoiser,
    artist: Artist,
    prompts: list[str],
    picks: Sequence[int],
    noise: float,
    session: SessionSettings,
    seed: int,
) -> Iterator[tuple[int, float]]:
    """Picks and rounds as in live labelling: yields each of `picks`, and its round's seconds.

    The newest adapter is attached to the denoiser whenever this yields, and stays so.
    """
    denoiser.adapters.remove()
    draw = draw_asked_by_base if session.pairs_by == "base" else draw_asked
    labelled: list[Click] = []
    shown, slips = 0, random.Random(seed)
    for due in rounds(picks, session):
        while len(labelled) < due:  # where the artist finds no best, other pictures are asked about
            numbers = range(shown, shown + due - len(labelled))
            names = tuple(prompts[number % len(prompts)] for number in numbers)
            seeds = tuple(1_000_000 * (seed + 1) + number for number in numbers)
            asked = draw(denoiser, names, seeds, session.sampling, session.pictures)
            labelled += label(asked, artist, noise, slips)
            shown += len(numbers)
            if shown > MOST_SHOWN + 2 * len(labelled):
                raise SystemExit(
                    "The artist finds nearly all pictures equal: nothing to learn from."
                )
        started_s = time.monotonic()
        metrics = learn(denoiser, labelled, session.training)
        print(
            f"  seed {seed}: {len(labelled)} picks, {metrics.updates} updates, "
            f"accuracy {metrics.accuracy:.2f}, margin {metrics.margin:.2f}",
            flush=True,
        )
        if due in picks:
            yield due, time.monotonic() - started_s


def rounds(picks: Sequence[int], session: SessionSettings) -> list[int]:
    """After how many picks a round is learned, the last one at the most of `picks`.

    A round begins with the base and learns from all picks so far: where its adapter does not draw
    the next pairs, it may as well not have been.
    """
    if session.pairs_by == "base":
        return sorted(picks)
    return sorted({*range(session.round_every, max(picks), session.round_every), *picks})


def learn(denoiser: models.Denoiser, labelled: list[Click], settings: TrainingSettings) -> Metrics:
    """A round, without the picks that are held out of it; what its last update showed."""
    every = round(1 / settings.held_out_fraction) if settings.held_out_fraction else 0
    kept = [click for i, click in enumerate(labelled, 1) if not every or i % every]
    pairs = [pair for click in kept for pair in click]
    *_, metrics = Training(denoiser, PairBatch.of(pairs), settings)
    return metrics


@cache
def draw_held_out_by_base(
    denoiser: models.Denoiser, held_out: HeldOut, settings: SamplingSettings
) -> Drawn:
    with denoiser.adapters.off():
        return draw_held_out(denoiser, held_out, settings)


def draw_held_out(
    denoiser: models.Denoiser, held_out: HeldOut, settings: SamplingSettings
) -> Drawn:
    """As the denoiser is switched now, with the same seeds every time."""

    def draw(prompts: list[str], first_seed: int) -> list[Image.Image]:
        images: list[Image.Image] = []
        for start in range(0, len(prompts), SAMPLE_BATCH):
            part = prompts[start : start + SAMPLE_BATCH]
            seeds = [first_seed + start + i for i in range(len(part))]
            images += sampling.images(denoiser, sampling.sample(denoiser, part, seeds, settings))
        return images

    plain = [prompt for prompt in held_out.objects for _ in range(IMAGES_PER_PROMPT)]
    return Drawn(
        draw(plain, 9_000_000), draw([caption(*names) for names in held_out.named], 9_500_000)
    )


def recognised(
    judge: recogniser.Recogniser, drawn: Drawn, held_out: HeldOut
) -> dict[str, list[bool]]:
    """Whether each picture shows what its prompt names."""
    plain = [name for name in held_out.objects for _ in range(IMAGES_PER_PROMPT)]
    _, styles, grounds = judge.logits(drawn.named)
    return {
        "object": (judge.object_ranks(drawn.plain, plain) == 0).tolist(),
        "style": [
            judge.styles[row.argmax()] == name
            for row, (_, name, _) in zip(styles, held_out.named, strict=True)
        ],
        "ground": [
            judge.grounds[row.argmax()] == name
            for row, (_, _, name) in zip(grounds, held_out.named, strict=True)
        ],
    }


def compare(
    base: Drawn,
    tuned: Drawn,
    held_out: HeldOut,
    judge: recogniser.Recogniser,
    artist: Artist,
) -> Comparison:
    """Base and tuned on everything that is held out."""
    names = [prompt for prompt in held_out.objects for _ in range(IMAGES_PER_PROMPT)]

    def by_prompt(drawn: Drawn) -> list[list[Image.Image]]:
        starts = range(0, len(drawn.plain), IMAGES_PER_PROMPT)
        return [drawn.plain[i : i + IMAGES_PER_PROMPT] for i in starts]

    return Comparison(
        base_scores=[artist(image, name) for image, name in zip(base.plain, names, strict=True)],
        tuned_scores=[artist(image, name) for image, name in zip(tuned.plain, names, strict=True)],
        base_recognised=recognised(judge, base, held_out),
        tuned_recognised=recognised(judge, tuned, held_out),
        checks=collapse.compare(by_prompt(base), by_prompt(tuned)),
    )


def summarise(comparisons: list[Comparison]) -> dict[str, float]:
    """The figures over all seeds."""
    base = torch.tensor([s for c in comparisons for s in c.base_scores], dtype=torch.float64)
    tuned = torch.tensor([s for c in comparisons for s in c.tuned_scores], dtype=torch.float64)
    wins = float((tuned > base).sum() + 0.5 * (tuned == base).sum())
    low, high = wilson(wins, len(base))
    deviation = max(float(base.std()), 1e-12)
    figures = {
        "win_rate": wins / len(base),
        "win_rate_low": low,
        "win_rate_high": high,
        "shift_sd": float(tuned.mean() - base.mean()) / deviation,
        "score_base": float(base.mean()),
        "score_tuned": float(tuned.mean()),
        "comparisons": len(base),
        "diversity": statistics.mean(c.checks.diversity for c in comparisons),
        "drift": statistics.mean(c.checks.drift for c in comparisons),
    }
    for what in ("object", "style", "ground"):
        for side in ("base", "tuned"):
            lists = [getattr(c, f"{side}_recognised")[what] for c in comparisons]
            flat = [value for values in lists for value in values]
            figures[f"{what}_accuracy_{side}"] = sum(flat) / len(flat)
    return figures


def session_settings(objective: str, overrides: dict) -> SessionSettings:
    """The studio's defaults on the starter, with an objective's preset."""
    training = dataclasses.replace(PRESETS[objective], **overrides)
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
    picks: list[int],
    session: SessionSettings,
    seeds: list[int],
    noise: float = 0.0,
    sheet_path: Path | None = None,
) -> list[dict[str, float]]:
    """The figures at each number of picks, over all seeds; seconds are those of their rounds."""
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
            denoiser, artist, training_prompts, picks, noise, seeded_session, seed
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
    parser.add_argument("--picks", type=int, nargs="+", default=[48], help="after which to look")
    parser.add_argument("--noise", type=float, default=0.0, help="share of picks that are wrong")
    parser.add_argument("--objective", choices=tuple(PRESETS), default=TrainingSettings().objective)
    parser.add_argument(
        "--pairs-by", choices=("base", "newest"), default=SessionSettings().pairs_by
    )
    parser.add_argument(
        "--pictures", type=int, default=2, help="of which a pick clicks the best (default: 2)"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--sheet", type=Path, help="write base above tuned pictures of seed 0 here")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="change settings of training"
    )
    args = parser.parse_args(argv)
    picks = sorted(set(args.picks))
    if picks[0] < 1 or args.seeds < 1:
        parser.error("--picks and --seeds must be at least 1")
    between = [count for count in picks[:-1] if count % SessionSettings().round_every]
    if between and args.pairs_by == "newest":
        parser.error(f"a round comes every {SessionSettings().round_every} picks: look after those")
    if not 2 <= args.pictures <= 9:
        parser.error("--pictures must lie between 2 and 9")
    if not 0 <= args.noise <= 0.5:
        parser.error("--noise must lie between 0 and 0.5")
    overrides = {key: number(value) for key, _, value in (s.partition("=") for s in args.set)}
    session = dataclasses.replace(
        session_settings(args.objective, overrides), pairs_by=args.pairs_by, pictures=args.pictures
    )
    artist = load_artist(args.artist)
    figures = run(artist, picks, session, list(range(args.seeds)), args.noise, args.sheet)
    for one in figures:
        print(report(one, args.objective))
    timing.write(args.json, figures[0] if len(figures) == 1 else figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
