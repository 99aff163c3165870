"""Taste gained against picture quality kept, with every way of training scaled to equal shifts.

    python launch.py bench frontier --jobs 2 --plot frontier.png frontier.svg

The size of a change alone says nothing about a way of training: a small learning rate or a large
beta moves less and spoils less. So all ways train on the same clicks, and each adapter is then
scaled until the guided velocity of the round's pictures has changed by the same amounts (shifts).
The remaining difference between two ways is the direction. Each run is stored as it ends; a later
call runs only the missing ones. The plot shows the named artists; `--artists` without a name means
all stored ones.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from studio.bench import runs
from studio.bench.baselines import FINETUNE, PRESETS, objective_of
from studio.bench.curves import ARTISTS, FIGURES, save
from studio.bench.research import ablations
from studio.bench.runs import Row
from studio.engine.training import Training
from studio.engine.trajectory import PairBatch
from studio.settings import OBJECTIVES, TrainingSettings

DEFAULT = TrainingSettings()
ONE_RATE = replace(DEFAULT, shortcut_rate=1.0)  # for all layers
ATTENTION = replace(DEFAULT, layers="attention")  # only, like all further ways
FINE_TUNING = "LoRA on the chosen pictures"
WAYS: dict[str, TrainingSettings] = {
    "the default": DEFAULT,
    "one learning rate for all layers": ONE_RATE,
    "attention layers alone": ATTENTION,
    "attention, through guidance": replace(ATTENTION, guided=True),
    "attention, AdamW, all timesteps": replace(
        ATTENTION, optimizer="adamw", timestep_fraction=1.0, beta=60.0, learning_rate=7e-4
    ),
    "D3PO as published": OBJECTIVES["d3po"],
    "D3PO, steps weighed alike": OBJECTIVES["d3po_balanced"],
    FINE_TUNING: PRESETS[FINETUNE],
}
CLICKS = 26  # of 32, without the fifth that is held out
SHIFTS = (0.15, 0.3, 0.45)
NAMES = ("win_rate", "shift_sd", "object_accuracy_tuned", "diversity")


def run(artist: str, way: str, count: int, shifts: Sequence[float], threads: int) -> list[Row]:
    """The figures of one way of training with one artist, at each shift."""
    torch.set_num_threads(threads)
    active = ablations.begin(artist, count, unseen=0, changes={})
    settings = replace(WAYS[way], target_shift=None)
    objective = objective_of(FINETUNE) if way == FINE_TUNING else None
    pairs = PairBatch.of(active.clicks())
    training = Training(active.denoiser, pairs, settings, objective=objective)
    for _ in training:
        pass
    # always measured at the default's timesteps
    measured_at = DEFAULT.timestep_fraction
    change = own_shift = training.shift(measured_at)
    rows = []
    for shift in shifts:
        active.denoiser.adapters.scale(shift / change)
        # near the target, because velocities are nearly linear in the weights
        change = training.shift(measured_at)
        figures = ablations.measure(active)
        row = {
            "artist": artist,
            "way": way,
            "target_shift": shift,
            "came_to": own_shift,
            "change": change,
        }
        rows.append({**row, **figures})
    return rows


def means(rows: list[Row]) -> dict[tuple[str, float], Row]:
    """Means over all artists, by way and shift; only where all artists were run."""
    artists = {row["artist"] for row in rows}
    by_way = {}
    for way, shift in itertools.product(WAYS, sorted({row["target_shift"] for row in rows})):
        group = [row for row in rows if (row["way"], row["target_shift"]) == (way, shift)]
        if {row["artist"] for row in group} == artists:
            by_way[way, shift] = {
                name: statistics.mean(row[name] for row in group) for name in (*NAMES, "came_to")
            }
    return by_way


def table(rows: list[Row]) -> str:
    """Markdown: a line per way and shift, a column per artist, and their mean."""
    artists = sorted({row["artist"] for row in rows})
    lines = [
        "| way of learning | came to | taken to | "
        f"{' | '.join(artist.replace('_', ' ') for artist in artists)} | mean |",
        "|" + "---|" * (len(artists) + 4),
    ]
    cells = {(row["way"], row["target_shift"], row["artist"]): _cell(row) for row in rows}
    for (way, shift), mean in means(rows).items():
        columns = " | ".join(cells[way, shift, artist] for artist in artists)
        own_shift = f"{mean['came_to']:.2g}"
        lines.append(f"| {way} | {own_shift} | {shift:g} | {columns} | {_cell(mean)} |")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    wins, shift, objects, diversity = (row[name] for name in NAMES)
    return f"{wins:.2f}, {shift:+.2f} sd, {objects:.0%}, {diversity:.2f}"


def plot(rows: list[Row], paths: list[Path]) -> None:
    """A line per way, from gentle to strong: taste upwards, objects and diversity to the right."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MultipleLocator, PercentFormatter

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    points = means(rows)
    for key, title, axis in (
        ("object_accuracy_tuned", "Object still recognised", axes[0]),
        ("diversity", "Diversity between seeds, of the base's", axes[1]),
    ):
        for way in WAYS:
            own = [point for (name, _), point in points.items() if name == way]
            kept, gained = [point[key] for point in own], [point["shift_sd"] for point in own]
            sizes = [12 + 24 * index for index in range(len(own))]  # larger for larger shifts
            [line] = axis.plot(kept, gained, linewidth=1, label=way)
            axis.scatter(kept, gained, sizes, color=line.get_color())
        axis.axhline(0.0, color="gray", linewidth=0.8, linestyle="--")
        axis.xaxis.set_major_locator(MultipleLocator(0.05))
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.set_xlabel(title)
    axes[0].set_ylabel("Taste score gained (standard deviations)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    save(figure, paths)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py bench frontier", description=__doc__)
    parser.add_argument("--artists", nargs="*", choices=ARTISTS, default=ARTISTS)
    parser.add_argument("--ways", nargs="*", choices=tuple(WAYS), default=tuple(WAYS))
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs")
    parser.add_argument("--rows", type=Path, default=FIGURES / "frontier.jsonl")
    parser.add_argument("--plot", type=Path, nargs="*", help="such as frontier.png frontier.svg")
    args = parser.parse_args(argv)
    known = {(row["artist"], row["way"]) for row in runs.read(args.rows)}
    todo = [
        (artist, way, CLICKS, SHIFTS)
        for way, artist in itertools.product(args.ways, args.artists)
        if (artist, way) not in known
    ]
    for rows in runs.gather(run, todo, args.jobs, args.rows):
        for row in rows:
            shift = row["target_shift"]
            print(f"{row['artist']}, {row['way']}, to {shift:g}: {_cell(row)}", flush=True)
    rows = [row for row in runs.read(args.rows) if row["artist"] in (args.artists or ARTISTS)]
    if not rows:
        raise SystemExit("There are no rows to plot.")
    print(table(rows))
    if args.plot:
        plot(rows, args.plot)
    return 0
