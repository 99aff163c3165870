"""Curves as SVG."""

from __future__ import annotations

import re

from studio.ui import curves


def test_a_curve_is_drawn_within_its_frame_and_says_its_newest_value():
    chart = curves.share_chart("Agrees", [(1, 0.25), (50, 1.0), (100, 0.5)], "about <it>", 100)
    assert ">50 %<" in chart
    assert "about &lt;it&gt;" in chart
    line = chart.split("points='")[1].split("'")[0]
    for point in line.split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= curves.WIDTH
        assert 0 <= y <= curves.HEIGHT


def test_a_curve_without_points_is_an_empty_frame():
    assert "polyline" not in curves.value_chart("Leaning", [], "", 10)
    assert "polyline" not in curves.value_chart("Leaning", [(1, 0.0)], "", 10)


def test_intervals_lie_one_below_the_other_within_the_frame():
    rows = [curves.Interval("Round <1>", 0.2, 0.9, 0.6), curves.Interval("Round 2")]
    chart = curves.interval_chart(rows, {"coin": 0.5}, "said 'so'")
    assert chart.count("<circle") == 1  # nothing is measured of the second
    assert "Round &lt;1&gt;" in chart
    assert "said &#x27;so&#x27;" in chart
    for x in re.findall(r"(?:x1|x2|cx)='([\d.]+)'", chart):
        assert curves.NAMES <= float(x) <= curves.WIDTH - curves.RIGHT
    assert len(set(re.findall(r"y1='([\d.]+)' y2='\1'", chart))) == 2
