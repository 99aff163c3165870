"""Curves as inline SVG, each with a sentence that explains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from studio.messages import _

WIDTH, HEIGHT = 320.0, 132.0
LEFT, RIGHT, TOP, BOTTOM = 34.0, 8.0, 8.0, 18.0  # margins, with the labels of the axes

Points = Sequence[tuple[float, float]]  # (update, value)

ROW = 24.0  # the height of one interval
NAMES = 64.0  # the width of their names


def share_chart(title: str, points: Points, about: str, x_max: float) -> str:
    """A share between 0 and 100 %, with a line at 50 % for the coin toss."""
    shares = [(x, 100 * y) for x, y in points]
    newest = f"{round(shares[-1][1])} %" if shares else "–"
    return _chart(title, newest, shares, about, x_max, (0.0, 100.0), marks=(0, 50, 100), toss=50.0)


def value_chart(title: str, points: Points, about: str, x_max: float, digits: int = 2) -> str:
    """Any number; the axis always includes 0."""
    values = [y for _x, y in points]
    low, high = min([0.0, *values]), max([0.0, *values])
    high = high if high > low else low + 1.0
    newest = f"{values[-1]:.{digits}f}" if values else "–"
    # A mark too close to 0 would overlap its label, so it is left out.
    marks = [0.0, *(m for m in (low, high) if abs(m) > 0.15 * (high - low))]
    return _chart(title, newest, points, about, x_max, (low, high), marks, toss=None, digits=digits)


@dataclass(frozen=True)
class Interval:
    """A share between 0 and 1, and what is known of it. share: None if nothing was measured."""

    name: str
    low: float = 0.0
    high: float = 1.0
    share: float | None = None


def interval_chart(intervals: Sequence[Interval], marks: Mapping[str, float], about: str) -> str:
    """Intervals one below the other, between 0 and 100 %. marks: lines through all of them, by
    name. `about` says the same in words.
    """

    def x(share: float) -> float:
        return round(NAMES + (WIDTH - NAMES - RIGHT) * share, 1)

    bottom = TOP + ROW * len(intervals)
    lines = "".join(
        f"<line x1='{x(share)}' x2='{x(share)}' y1='{TOP}' y2='{bottom}' class='toss'/>"
        f"<text x='{x(share)}' y='{bottom + 13}' class='mark middle'>{escape(name)}</text>"
        for name, share in marks.items()
    )
    rows = "".join(
        f"<text x='{NAMES - 10}' y='{y + 3.5}' class='mark'>{escape(one.name)}</text>"
        f"<line x1='{x(0)}' x2='{x(1)}' y1='{y}' y2='{y}' class='grid'/>{_measured(one, x, y)}"
        for place, one in enumerate(intervals)
        for y in (TOP + ROW * (place + 0.5),)
    )
    return (
        f"<svg viewBox='0 0 {WIDTH:g} {bottom + BOTTOM:g}' role='img' "
        f"aria-label='{escape(about, quote=True)}'>{rows}{lines}</svg>"
    )


def _measured(one: Interval, x: Callable[[float], float], y: float) -> str:
    if one.share is None:
        return ""
    return (
        f"<line x1='{x(one.low)}' x2='{x(one.high)}' y1='{y}' y2='{y}' class='line'/>"
        f"<circle cx='{x(one.share)}' cy='{y}' r='4.5' class='dot'/>"
    )


def _chart(
    title: str,
    newest: str,
    points: Points,
    about: str,
    x_max: float,
    y_range: tuple[float, float],
    marks: Sequence[float],
    toss: float | None,
    digits: int = 0,
) -> str:
    x_max = max(x_max, 1.0)
    low, high = y_range

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / x_max
        up = TOP + (HEIGHT - TOP - BOTTOM) * (1 - (y - low) / (high - low))
        return round(across, 1), round(up, 1)

    grid = "".join(
        f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y}' y2='{y}' class='grid'/>"
        f"<text x='{LEFT - 6}' y='{y + 3.5}' class='mark'>{mark:.{digits}f}</text>"
        for mark in marks
        for y in (at(0, mark)[1],)
    )
    if toss is not None:
        y = at(0, toss)[1]
        grid += f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y}' y2='{y}' class='toss'/>"
    line = dot = ""
    if points:
        path = " ".join(f"{x},{y}" for x, y in (at(*point) for point in points))
        x, y = at(*points[-1])
        line = f"<polyline points='{path}' class='line'/>" if len(points) > 1 else ""
        dot = f"<circle cx='{x}' cy='{y}' r='3.5' class='dot'/>"
    steps = _("{number} steps", number=f"{x_max:g}")
    return f"""
<figure class="chart">
  <figcaption><b>{escape(title)}</b><output>{escape(newest)}</output></figcaption>
  <svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(title)}: {escape(newest)}">
    {grid}{line}{dot}
    <text x="{LEFT}" y="{HEIGHT - 4}" class="mark start">0</text>
    <text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" class="mark">{steps}</text>
  </svg>
  <p>{escape(about)}</p>
</figure>"""
