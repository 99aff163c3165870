"""Taste gained against picture kept: every way of learning, taken equally far.

    python launch.py bench frontier --jobs 2 --plot frontier.png frontier.svg

How loud a way of learning is says nothing about it: a small learning rate or a large beta moves
less and spoils less. So each learns from the same clicks, and its adapter is then scaled until the
guided velocity of the round's pictures changes equally much, to several such reaches: what is left
between two ways is the direction. Each run is kept as it ends; a later call goes on with those that
are missing. Drawn are the artists that are named; with `--artists` and no name, all that is kept.
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
from studio.bench.curves import ARTISTS, FIGURES, save
from studio.bench.research import ablations
from studio.bench.runs import Row
from studio.engine.training import Training
from studio.engine.trajectory import PairBatch
from studio.settings import BASELINES, OBJECTIVES, TrainingSettings

DEFAULT = TrainingSettings()
ONE_RATE = replace(DEFAULT, shortcut_rate=1.0)  # for all layers
ATTENTION = replace(DEFAULT, layers="attention")  # alone, as all other ways
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
    "LoRA on the chosen pictures": BASELINES["finetune"],
}
TAUGHT = 26  # clicks: what 32 leave when a fifth is held out
REACHES = (0.15, 0.3, 0.45)
NAMES = ("win_rate", "shift_sd", "object_accuracy_tuned", "diversity")


def run(artist: str, way: str, taught: int, reaches: Sequence[float], threads: int) -> list[Row]:
    """The figures of one way of learning with one artist, at each reach."""
    torch.set_num_threads(threads)
    active = ablations.begin(artist, taught, unseen=0, changes={})
    settings = replace(WAYS[way], target_shift=None)
    training = Training(active.denoiser, PairBatch.of(active.clicks()), settings)
    for _ in training:
        pass
    # measured at the same timesteps, whichever were learned from
    measured_at = DEFAULT.timestep_fraction
    change = came_to = training.shift(measured_at)
    rows = []
    for reach in reaches:
        active.denoiser.adapters.scale(reach / change)
        change = training.shift(
            measured_at
        )  # near the reach, as velocities are nearly linear in weights
        figures = ablations.look(active)
        row = {
            "artist": artist,
            "way": way,
            "target_shift": reach,
            "came_to": came_to,
            "change": change,
        }
        rows.append({**row, **figures})
    return rows


def means(rows: list[Row]) -> dict[tuple[str, float], Row]:
    """Over all artists, by way and reach; only where all artists were run."""
    artists = {row["artist"] for row in rows}
    found = {}
    for way, reach in itertools.product(WAYS, sorted({row["target_shift"] for row in rows})):
        of_it = [row for row in rows if (row["way"], row["target_shift"]) == (way, reach)]
        if {row["artist"] for row in of_it} == artists:
            found[way, reach] = {
                name: statistics.mean(row[name] for row in of_it) for name in (*NAMES, "came_to")
            }
    return found


def table(rows: list[Row]) -> str:
    """Markdown: a line a way and reach, a column an artist, and their mean."""
    artists = sorted({row["artist"] for row in rows})
    lines = [
        "| way of learning | came to | taken to | "
        f"{' | '.join(artist.replace('_', ' ') for artist in artists)} | mean |",
        "|" + "---|" * (len(artists) + 4),
    ]
    cells = {(row["way"], row["target_shift"], row["artist"]): _cell(row) for row in rows}
    for (way, reach), mean in means(rows).items():
        of_it = " | ".join(cells[way, reach, artist] for artist in artists)
        came_to = f"{mean['came_to']:.2g}"
        lines.append(f"| {way} | {came_to} | {reach:g} | {of_it} | {_cell(mean)} |")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    wins, shift, objects, diversity = (row[name] for name in NAMES)
    return f"{wins:.2f}, {shift:+.2f} sd, {objects:.0%}, {diversity:.2f}"


def plot(rows: list[Row], paths: list[Path]) -> None:
    """A line a way, from gentle to strong: what is gained, up; objects and variety kept, right."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MultipleLocator, PercentFormatter

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    points = means(rows)
    for key, title, axis in (
        ("object_accuracy_tuned", "Object still recognised", axes[0]),
        ("diversity", "Diversity between seeds, of the base's", axes[1]),
    ):
        for way in WAYS:
            of_it = [point for (one, _), point in points.items() if one == way]
            kept, gained = [p[key] for p in of_it], [p["shift_sd"] for p in of_it]
            sizes = [12 + 24 * place for place in range(len(of_it))]  # the further, the larger
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
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--rows", type=Path, default=FIGURES / "frontier.jsonl")
    parser.add_argument("--plot", type=Path, nargs="*", help="such as frontier.png frontier.svg")
    args = parser.parse_args(argv)
    known = {(row["artist"], row["way"]) for row in runs.read(args.rows)}
    todo = [
        (artist, way, TAUGHT, REACHES)
        for way, artist in itertools.product(args.ways, args.artists)
        if (artist, way) not in known
    ]
    for rows in runs.gather(run, todo, args.jobs, args.rows):
        for row in rows:
            print(f"{row['artist']}, {row['way']}, to {row['reach']:g}: {_cell(row)}", flush=True)
    rows = [row for row in runs.read(args.rows) if row["artist"] in (args.artists or ARTISTS)]
    if not rows:
        raise SystemExit("There is nothing to draw.")
    print(table(rows))
    if args.plot:
        plot(rows, args.plot)
    return 0
