"""Curves as SVG."""

from __future__ import annotations

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
