"""The curves: what is still to run, how rows are pooled, and what is drawn of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from PIL import Image

from studio.bench import clicks, curves, runs
from studio.bench.curves import Run


def row(run: Run, picks: int, **changes) -> dict:
    values = {
        "picks": picks,
        "win_rate": 0.75,
        "win_rate_low": 0.6,
        "win_rate_high": 0.9,
        "shift_sd": 0.5,
        "score_base": 0.0,
        "score_tuned": 1.0,
        "comparisons": 64,
        "object_accuracy_base": 1.0,
        "object_accuracy_tuned": 0.9,
        "style_accuracy_base": 1.0,
        "style_accuracy_tuned": 1.0,
        "ground_accuracy_base": 1.0,
        "ground_accuracy_tuned": 1.0,
        "diversity": 0.8,
        "drift": 0.7,
        "seconds": 60.0,
        "peak_memory_mb": 900.0,
    }
    return vars(run) | values | changes


ONE = Run("bright", 0.0, "pairs", 0)
OTHER = Run("bright", 0.0, "pairs", 1)
PUBLISHED = Run("mixed", 0.1, "d3po", 0)


def test_only_what_is_missing_is_run():
    rows = [row(ONE, 16), row(ONE, 32), row(OTHER, 16)]
    assert curves.missing([ONE, OTHER, PUBLISHED], [16, 32], rows) == [OTHER, PUBLISHED]
    assert curves.missing([ONE, OTHER], [16], rows) == []


def test_pooled_rows_count_every_comparison_alike():
    """By hand: 48 of 64 and 8 of 32 are 56 of 96."""
    rows = [row(ONE, 16), row(OTHER, 16, win_rate=0.25, comparisons=32, shift_sd=-0.5)]
    pooled = curves.pooled(rows)
    assert pooled["win_rate"] == pytest.approx(56 / 96)
    assert pooled["win_rate_low"] < 56 / 96 < pooled["win_rate_high"]
    assert pooled["shift_sd"] == 0.0
    assert pooled["runs"] == 2


def test_the_table_names_what_does_not_work_too():
    published = replace(PUBLISHED, artist="bright")
    made = curves.table(
        [row(ONE, 16), row(ONE, 32), row(published, 32, win_rate=0.5, shift_sd=0.0)]
    )
    assert (
        "| the default, the better of 2 | 0% | 16 | 0.75 (0.63 to 0.84) | 0.75 | +0.50 sd |" in made
    )
    assert "| D3PO as published | 10% | 32 | 0.50 (0.38 to 0.62) | 0.50 | +0.00 sd |" in made
    assert "\n| bright | 0.75 (0.63 to 0.84)<br>+0.50 sd, 90%, 0.80 |\n" in made
    assert made.count("D3PO as published") == 1  # the second part is of picks without a slip


def test_an_average_over_some_artists_is_not_held_against_one_over_all():
    mixed = replace(ONE, artist="mixed")
    rows = [row(ONE, 16), row(ONE, 32), row(mixed, 32, win_rate=0.25)]
    made = curves.table(rows)
    assert "| the default, the better of 2 | 0% | 32 | 0.50 (0.41 to 0.59) | 0.25 |" in made
    assert "| 0% | 16 |" not in made
    assert list(curves.of_all_artists(rows, "picks")) == [(32,)]


def test_artists_are_listed_where_most_ways_can_be_compared():
    published = replace(PUBLISHED, artist="bright", noise=0.0)
    of_pairs = [row(ONE, picks) for picks in (16, 32, 64)]
    assert curves.most_compared(of_pairs) == 64
    rows = [*of_pairs, *(row(published, picks) for picks in (32, 128))]
    assert curves.most_compared(rows) == 32
    other = replace(ONE, artist="mixed")
    made = curves.table([*rows, row(other, 32)]).splitlines()
    ways = "the default, the better of 2 | D3PO as published"
    assert made[-4] == f"| artist, 32 picks, none wrong | {ways} |"
    assert made[-3] == "|---|---|---|"
    alike = "0.75 (0.63 to 0.84)<br>+0.50 sd, 90%, 0.80"
    assert made[-2:] == [f"| bright | {alike} | {alike} |", f"| mixed | {alike} |  |"]


def test_rows_become_a_table_and_a_plot_without_running_again(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    rows = [row(one, picks) for one in (ONE, OTHER) for picks in (16, 32)]
    again = [row(ONE, 16, win_rate=0.1), *rows]  # a run that was done over
    path.write_text("".join(json.dumps(one) + "\n" for one in again), encoding="utf-8")
    plots = [tmp_path / "new folder" / name for name in ("curves.png", "curves.svg")]
    arguments = ["--artists", "bright", "--noises", "0", "--ways", "pairs"]
    arguments += ["--picks", "16", "32", "--seeds", "0", "1", "--rows", str(path)]
    arguments += ["--table", str(tmp_path / "t.md"), "--plot", *map(str, plots)]
    assert curves.main(arguments) == 0
    assert "0 of 2 runs are missing." in capsys.readouterr().out
    assert (tmp_path / "t.md").read_text(encoding="utf-8") == curves.table(rows)
    assert Image.open(plots[0]).width > 800
    first = plots[1].read_bytes()
    assert first.startswith(b"<?xml")
    curves.plot(rows, plots)
    assert plots[1].read_bytes() == first


def test_a_run_that_cannot_be_done_is_said_and_the_others_go_on(tmp_path, capsys):
    """In a process of its own, as all runs are."""
    nobody = Run("nobody", 0.0, "pairs", 0)
    kept = tmp_path / "rows.jsonl"
    assert list(runs.gather(curves.run, [(nobody, [16])], 1, kept)) == []
    assert runs.read(kept) == []
    assert "studio.bench.artists has no function nobody" in capsys.readouterr().out


def test_the_ways_that_are_named_are_drawn_and_without_a_name_all(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    rows = [row(ONE, 16), row(replace(ONE, way="d3po_balanced"), 16)]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    run_nothing = ["--seeds", "--rows", str(path)]
    curves.main(run_nothing)
    assert "steps weighed alike" not in capsys.readouterr().out
    curves.main([*run_nothing, "--ways"])
    drawn = capsys.readouterr().out
    assert "steps weighed alike" in drawn
    assert "the better of 2" in drawn


@pytest.mark.parametrize("way", [way for way in curves.WAYS.values() if way.changes])
def test_what_a_way_changes_is_a_change(way: curves.Way):
    """Not what the preset has become meanwhile, under another name."""
    changed = clicks.session_settings(way.objective, way.changes).training
    for name, value in way.changes.items():
        assert getattr(changed, name) == value != getattr(clicks.PRESETS[way.objective], name)


def test_nothing_to_draw_is_a_sentence(tmp_path):
    with pytest.raises(SystemExit, match="no rows to plot"):
        curves.main(["--seeds", "--rows", str(tmp_path / "none.jsonl")])
