"""The frontier: every way is taken to the same reach, and only whole means are drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from studio.bench import frontier, held_out, runs
from studio.bench.frontier import WAYS


def row(artist: str, way: str, reach: float, shift: float = 0.5) -> runs.Row:
    figures = {"win_rate": 0.75, "shift_sd": shift, "object_accuracy_tuned": 0.9, "diversity": 0.8}
    return {"artist": artist, "way": way, "target_shift": reach, "came_to": 0.012, **figures}


def test_a_mean_is_one_over_all_artists():
    rows = [row("bright", "the default", 0.3, 0.5), row("mixed", "the default", 0.3, 0.25)]
    rows.append(row("bright", "D3PO as published", 0.3))
    [(key, mean)] = frontier.means(rows).items()
    assert key == ("the default", 0.3)
    assert mean["shift_sd"] == 0.375
    assert frontier.table(rows).splitlines()[2] == (
        "| the default | 0.012 | 0.3 | 0.75, +0.50 sd, 90%, 0.80 | 0.75, +0.25 sd, 90%, 0.80 "
        "| 0.75, +0.38 sd, 90%, 0.80 |"
    )


def test_what_is_kept_is_drawn_without_running_again(tmp_path: Path, capsys) -> None:
    kept = tmp_path / "rows.jsonl"
    rows = [row("bright", way, reach) for way in WAYS for reach in (0.1, 0.2)]
    kept.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    plots = [tmp_path / "new folder" / name for name in ("f.png", "f.svg")]
    assert frontier.main(["--artists", "--rows", str(kept), "--plot", *map(str, plots)]) == 0
    assert capsys.readouterr().out.strip() == frontier.table(rows)
    others = [*runs.read(kept), row("mixed", "the default", 0.1)]
    kept.write_text("".join(json.dumps(one) + "\n" for one in others), encoding="utf-8")
    assert frontier.main(["--artists", "bright", "--rows", str(kept)]) == 0
    assert capsys.readouterr().out.strip() == frontier.table(rows)
    assert Image.open(plots[0]).width > 800
    first = plots[1].read_bytes()
    frontier.plot(rows, plots)
    assert plots[1].read_bytes() == first


@pytest.mark.nightly  # a whole run of a benchmark
def test_a_way_is_taken_to_every_reach(monkeypatch) -> None:
    """On the starter; published D3PO, which comes to next to nothing by itself."""
    monkeypatch.setattr(held_out, "HELD_OUT_PROMPTS", 2)
    monkeypatch.setattr(held_out, "NAMED_PROMPTS", 1)
    first, second = frontier.run("bright", "D3PO as published", 4, [0.1, 0.2], threads=1)
    assert first["came_to"] == second["came_to"] < 0.01
    assert (first["target_shift"], second["target_shift"]) == (0.1, 0.2)
    for one in (first, second):
        assert one["change"] == pytest.approx(one["target_shift"], rel=0.2)
    assert 0 < first["drift"] < second["drift"]


def test_nothing_to_draw_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no rows to plot"):
        frontier.main(["--artists", "--rows", str(tmp_path / "none.jsonl")])
