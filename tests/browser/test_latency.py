"""The measurement of a pick's latency, in its small form: that it measures, never how long."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from PIL import Image, ImageChops

from studio.bench import clicks_latency
from studio.bench.served import ROOT
from studio.settings import SessionSettings

pytestmark = pytest.mark.browser


def test_pairs_lie_where_the_pages_look_for_them(store):
    """Below the limit lossless, above it the copy for the screen; all of their own files."""
    session = store.create_session("A", SessionSettings(prompts=("a lion",)))
    for size_px in (64, 520):
        clicks_latency.add_pairs(store, session, size_px, 2)
    waiting = store.waiting_pairs(session.id)
    assert [pair.left.sampling.width_px for pair in waiting] == [64, 64, 520, 520]
    for pair in waiting:
        left, right = (Image.open(store.display_path(one)) for one in (pair.left, pair.right))
        assert left.size == (pair.left.sampling.width_px,) * 2
        assert ImageChops.difference(left, right).getbbox() is not None


def test_the_percentiles_are_of_the_picks_with_the_floor_beside_them():
    found = clicks_latency.summary({"pick": [*range(1, 102)], "floor": [5.0, 5.0, 5.0]})
    assert found == {
        "p50_ms": 51,
        "p95_ms": 96,
        "floor_p50_ms": 5,
        "floor_p95_ms": 5,
        "picks": 101,
    }


def test_without_playwright_it_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "playwright", None)
    with pytest.raises(clicks_latency.BenchError, match="needs playwright"):
        clicks_latency.main([])


@pytest.mark.nightly  # a whole run of a benchmark
def test_a_whole_run(browser, tmp_path):
    """Two picks each way, of small pictures, beside a round that really learns."""
    # In a process of its own: this one has a playwright already.
    path = tmp_path / "figures.json"
    options = [
        "--picks",
        "2",
        "--sizes",
        "128",
        "--pause",
        "0.2",
        "--history",
        "4",
        "9",
        "--json",
        str(path),
    ]
    command = [
        sys.executable,
        "-m",
        "studio",
        "bench",
        "clicks-latency",
        *options,
        "--json",
        str(path),
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "while a round learns" in run.stdout
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert figures["picks"] == 4
    assert figures["updates_per_s"] > 0
    assert figures["answer"]["ratio"] > 0
    assert "in a session of 4 picks" in run.stdout
    for one in (figures, figures["key_128_px"], figures["pointer_128_px"]):
        assert 0 < one["p50_ms"] <= one["p95_ms"]
        assert 0 < one["floor_p50_ms"] <= one["floor_p95_ms"]
