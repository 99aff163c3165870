"""Curves as inline SVG, each with a sentence that explains it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from studio.messages import _

WIDTH, HEIGHT = 320.0, 132.0
LEFT, RIGHT, TOP, BOTTOM = 34.0, 8.0, 8.0, 18.0  # margins, with the labels of the axes

Points = Sequence[tuple[float, float]]  # (update, value)


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
