"""Learning curves over the number of clicks: the table and plot of docs/results.md.

    python launch.py bench curves --jobs 2 --table curves.md --plot curves.png curves.svg

Runs `bench clicks` for every simulated artist, share of wrong picks, way and seed, measures after
16, 32, 64 and 128 picks, and plots the results. Each run is stored in `--rows` as it ends, and a
later call runs only the missing ones, so that the work can be spread over days or machines. The
plot shows the named ways; `--ways` without a name means all stored ones.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from studio.bench import baselines, clicks, runs, tastes
from studio.bench.artists import Artist
from studio.bench.runs import Row
from studio.settings import TrainingSettings
from studio.statistics import wilson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = Path(__file__).parent / "figures"
ARTISTS = (
    "blue_background",
    "bright",
    "saturated",
    "compressible",
    "incompressible",
    "symmetric",
    "flat_style",
    "ink_style",
    "mixed",
)
NOISES = (0.0, 0.1, 0.25)
PICKS = (16, 32, 64, 128)


@dataclass(frozen=True)
class Way:
    """A way of training on clicks: a preset of `baselines.PRESETS`, and the kind of question."""

    label: str
    objective: str
    pictures: int = 2  # per question
    changes: dict[str, str | float] = field(default_factory=dict)  # of the preset


WAYS = {
    "pairs": Way("the default, the better of 2", TrainingSettings().objective),
    "best_of_4": Way("the default, the best of 4", TrainingSettings().objective, pictures=4),
    "further": Way(
        "the default, to a reach of 0.3",
        TrainingSettings().objective,
        changes={"target_shift": 0.3},
    ),
    "attention": Way(
        "attention layers alone, to a reach of 0.3",
        TrainingSettings().objective,
        changes={"layers": "attention", "target_shift": 0.3},
    ),
    "steps": Way(
        "D3PO's own loss, otherwise the default",
        TrainingSettings().objective,
        changes={"loss": "d3po", "beta": 100.0, "timestep_fraction": 1.0},
    ),
    "given_end": Way(
        "the same, given the picture",
        TrainingSettings().objective,
        changes={"loss": "d3po_given_end", "timestep_fraction": 0.4},
    ),
    "d3po": Way("D3PO as published", "d3po"),
    "d3po_balanced": Way("D3PO, steps weighed alike", "d3po_balanced"),
    "finetune": Way("LoRA on the chosen pictures", "finetune"),
}
USUAL_WAYS = ("pairs", "best_of_4", "d3po", "finetune")


@dataclass(frozen=True, order=True)
class Run:
    """One artist, one way of training, one seed."""

    artist: str
    noise: float
    way: str
    seed: int


def artist_named(name: str) -> Artist:
    """Of `studio.bench.artists`, or of the population of tastes."""
    population = tastes.population()
    if name in population:
        return population[name]
    return clicks.load_artist(f"studio.bench.artists:{name}")


def run(parameters: Run, picks: list[int], threads: int) -> list[Row]:
    """The figures of a run after each number of picks; in a process of its own."""
    torch.set_num_threads(threads)
    way = WAYS[parameters.way]
    session = replace(clicks.session_settings(way.objective, way.changes), pictures=way.pictures)
    figures = clicks.run(
        artist_named(parameters.artist),
        picks,
        session,
        [parameters.seed],
        parameters.noise,
        objective=baselines.objective_of(way.objective),
    )
    return [{**asdict(parameters), **row} for row in figures]


def read(path: Path) -> list[Row]:
    """The stored rows, the last of each run and number of picks."""
    return list({(_run_of(row), row["picks"]): row for row in runs.read(path)}.values())


def _run_of(row: Row) -> Run:
    return Run(*(row[name] for name in Run.__dataclass_fields__))


def missing(wanted: Iterable[Run], picks: Iterable[int], rows: list[Row]) -> list[Run]:
    """The runs without a row for every number of picks."""
    stored = {(_run_of(row), row["picks"]) for row in rows}
    return [run for run in wanted if any((run, count) not in stored for count in picks)]


def _win_rate(rows: list[Row]) -> float:
    """All comparisons have equal weight."""
    wins = sum(row["win_rate"] * row["comparisons"] for row in rows)
    return wins / sum(row["comparisons"] for row in rows)


def pooled(rows: list[Row]) -> Row:
    """Rows of the same number of picks as one, and the win rate of the artist with the lowest."""
    total = sum(row["comparisons"] for row in rows)
    rate = _win_rate(rows)
    low, high = wilson(rate * total, total)
    means = ("shift_sd", "object_accuracy_base", "object_accuracy_tuned", "diversity")
    return {
        "win_rate": rate,
        "win_rate_low": low,
        "win_rate_high": high,
        "lowest_win_rate": min(_win_rate(group) for group in by(rows, "artist").values()),
        **{name: sum(row[name] for row in rows) / len(rows) for name in means},
        "runs": len(rows),
    }


def by(rows: list[Row], *names: str) -> dict[tuple, list[Row]]:
    """Rows grouped by their values of `names`, in order."""
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in names)].append(row)
    return dict(sorted(groups.items()))


def of_all_artists(rows: list[Row], *names: str) -> dict[tuple, list[Row]]:
    """Groups like `by`, but only those with all artists: averages over different artists cannot be
    compared."""
    artists = {row["artist"] for row in rows}
    groups = by(rows, *names).items()
    return {key: group for key, group in groups if {r["artist"] for r in group} == artists}


def most_compared(rows: list[Row]) -> int:
    """The number of picks that was run with most ways; the largest of several such."""
    ways = {picks: len(by(group, "way")) for (picks,), group in by(rows, "picks").items()}
    return max(ways, key=lambda picks: (ways[picks], picks), default=0)


def table(rows: list[Row]) -> str:
    """Markdown: all artists pooled by way, noise and picks, if all were run; then each artist."""
    lines = [
        "| way of learning | wrong picks | picks | tuned wins (95%) | lowest artist | "
        "taste score | object recognised | diversity | runs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    averages = of_all_artists(rows, "way", "noise", "picks").items()
    order = list(WAYS)
    for (way, noise, picks), group in sorted(averages, key=lambda item: order.index(item[0][0])):
        lines.append(f"| {WAYS[way].label} | {noise:.0%} | {picks} | {_cells(pooled(group))} |")
    return "\n".join([*lines, "", *_artists_table(rows)]) + "\n"


def _artists_table(rows: list[Row]) -> list[str]:
    """A line per artist, a column per way, at the picks with most ways, without wrong picks."""
    clean = [row for row in rows if row["noise"] == 0]
    picks = most_compared(clean)
    groups = by([row for row in clean if row["picks"] == picks], "artist", "way")
    ways = [way for way in WAYS if any(way == name for _, name in groups)]
    labels = " | ".join(WAYS[way].label for way in ways)
    lines = [f"| artist, {picks} picks, none wrong | {labels} |", "|" + "---|" * (len(ways) + 1)]
    for artist in sorted({artist for artist, _ in groups}):
        cells = [_cell(groups.get((artist, way), [])) for way in ways]
        lines.append(f"| {described(artist)} | {' | '.join(cells)} |")
    return lines


def described(artist: str) -> str:
    """What an artist likes, in a word or by weights."""
    return str(tastes.population().get(artist, artist.replace("_", " ")))


def _cell(rows: list[Row]) -> str:
    if not rows:
        return ""
    f = pooled(rows)
    return (
        f"{_wins(f)}<br>{f['shift_sd']:+.2f} sd, {f['object_accuracy_tuned']:.0%}, "
        f"{f['diversity']:.2f}"
    )


def _wins(f: Row) -> str:
    return f"{f['win_rate']:.2f} ({f['win_rate_low']:.2f} to {f['win_rate_high']:.2f})"


def _cells(f: Row) -> str:
    return (
        f"{_wins(f)} | {f['lowest_win_rate']:.2f} | {f['shift_sd']:+.2f} sd | "
        f"{f['object_accuracy_base']:.0%} → {f['object_accuracy_tuned']:.0%} | "
        f"{f['diversity']:.2f} | {f['runs']}"
    )


def plot(rows: list[Row], paths: list[Path]) -> None:
    """Taste gained and quality kept against picks, all artists pooled; then each artist."""
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    clean = [row for row in rows if row["noise"] == 0]
    artists = sorted({row["artist"] for row in clean})
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    panels = (
        (axes[0, 0], "win_rate", "Tuned preferred to base", 0.5),
        (axes[0, 1], "shift_sd", "Taste score gained (standard deviations)", 0.0),
        (axes[1, 0], "object_accuracy_tuned", "Object still recognised", None),
    )
    for axis, key, title, neutral in panels:
        for way in WAYS:
            points = {
                picks: pooled(group)
                for (name, picks), group in of_all_artists(clean, "way", "picks").items()
                if name == way
            }
            if not points:
                continue
            values = [point[key] for point in points.values()]
            axis.plot(list(points), values, marker="o", color=_colour(way))
            if key == "win_rate":
                lows = [point["win_rate_low"] for point in points.values()]
                highs = [point["win_rate_high"] for point in points.values()]
                axis.vlines(list(points), lows, highs, color=_colour(way), alpha=0.5)
        if neutral is not None:
            axis.axhline(neutral, color="gray", linewidth=0.8, linestyle="--")
        counts = sorted({row["picks"] for row in clean})
        axis.set_xscale("log", base=2)
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.set_xlabel("picks")
        axis.set_title(title)
    axes[0, 0].set_ylim(0.3, 1.0)
    axes[1, 0].set_ylim(0.0, 1.02)
    _plot_artists(axes[1, 1], clean, artists)
    shown = [way for way in WAYS if any(row["way"] == way for row in clean)]
    handles = [Line2D([], [], marker="o", color=_colour(way)) for way in shown]
    labels = [WAYS[way].label for way in shown]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(shown))
    save(figure, paths)


def save(figure: Figure, paths: list[Path]) -> None:
    """Write a figure in each format, reproducibly, and close it."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    with mpl.rc_context({"svg.hashsalt": "d3po-studio"}):
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            dated = {"Date": None} if path.suffix == ".svg" else {}
            figure.savefig(path, dpi=110, metadata=dated)
    plt.close(figure)


def _colour(way: str) -> str:
    """The colour of a way, the same in every panel."""
    return f"C{list(WAYS).index(way)}"


def _plot_artists(axis: object, rows: list[Row], artists: list[str]) -> None:
    """The win rate of each artist at the picks with most ways, with its interval."""
    picks = most_compared(rows)
    compared = [row for row in rows if row["picks"] == picks]
    shown = [way for way in WAYS if any(row["way"] == way for row in compared)]
    for (artist, way), group in by(compared, "artist", "way").items():
        below = 0.6 / len(shown) * shown.index(way)
        height = len(artists) - 1 - artists.index(artist) - below
        point = pooled(group)
        span = [point["win_rate_low"], point["win_rate_high"]]
        axis.plot(span, [height] * 2, color=_colour(way), linewidth=1)
        axis.plot([point["win_rate"]], [height], marker="o", markersize=4, color=_colour(way))
    axis.set_yticks(range(len(artists)), [described(name) for name in reversed(artists)])
    axis.axvline(0.5, color="gray", linewidth=0.8, linestyle="--")
    axis.set_xlim(0.1, 1.0)
    axis.set_title(f"Each artist, {picks} picks")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py bench curves", description=__doc__)
    parser.add_argument("--artists", nargs="*", choices=ARTISTS, default=ARTISTS)
    parser.add_argument(
        "--population",
        choices=tuple(tastes.halves()),
        help="these of the random tastes in the place of the artists, and rows of their own",
    )
    parser.add_argument("--noises", nargs="*", type=float, default=NOISES)
    parser.add_argument("--picks", nargs="*", type=int, default=PICKS)
    parser.add_argument("--ways", nargs="*", choices=tuple(WAYS), default=USUAL_WAYS)
    parser.add_argument("--seeds", nargs="*", type=int, default=(0, 1, 2))
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs")
    parser.add_argument("--rows", type=Path, help="default: in studio/bench/figures")
    parser.add_argument("--plot", type=Path, nargs="*", help="such as curves.png curves.svg")
    parser.add_argument("--table", type=Path, help="also write the table here")
    args = parser.parse_args(argv)
    names = tastes.halves()[args.population] if args.population else args.artists
    stored = args.rows or FIGURES / f"{'tastes' if args.population else 'curves'}.jsonl"
    grid = itertools.product(args.seeds, args.noises, args.ways, names)
    wanted = [Run(artist, noise, way, seed) for seed, noise, way, artist in grid]
    picks = sorted(args.picks)
    todo = missing(wanted, picks, read(stored))
    print(f"{len(todo)} of {len(wanted)} runs are missing.", flush=True)
    for rows in runs.gather(run, [(each, picks) for each in todo], args.jobs, stored):
        for row in rows:
            print(f"{row['artist']}: {clicks.report(row, WAYS[row['way']].label)}", flush=True)
    rows = [row for row in read(stored) if row["way"] in (args.ways or WAYS)]
    if args.population:
        rows = [row for row in rows if row["artist"] in names]
    if not rows:
        raise SystemExit("There are no rows to plot.")
    print(table(rows))
    if args.table:
        args.table.write_text(table(rows), encoding="utf-8")
    if args.plot:
        plot(rows, args.plot)
    return 0
