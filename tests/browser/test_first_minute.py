"""The measurement of the first minutes of a new home: that it measures, never how long."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from studio.bench import first_minute
from studio.bench.served import ROOT, BenchError

pytestmark = pytest.mark.browser

FIGURES = {
    "moments_s": {name: 10.0 * place for place, name in enumerate(first_minute.NAMES, start=1)},
    "picture_s": 0.5,
    "round_s": 20.0,
    "updates": 32,
    "picks": 16,
    "pause_s": 3.0,
    "waited_for_pairs_s": 1.25,
}


def test_each_moment_is_in_seconds_in_pictures_and_in_rounds():
    [about, _, *rows, waited] = first_minute.report(FIGURES).splitlines()
    assert "16 picks and 32 updates takes 20 s" in about
    assert len(rows) == len(first_minute.NAMES)
    assert rows[1].split() == ["The", "page", "is", "built", "20.0", "40.0", "1.00"]
    assert "1.2 s" in waited


def test_without_playwright_it_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "playwright", None)
    with pytest.raises(BenchError, match="needs playwright"):
        first_minute.main([])


@pytest.mark.nightly  # a whole run of a benchmark
def test_a_whole_run(browser, tmp_path):
    """From the start to a tuned picture, by an artist in a hurry."""
    # In a process of its own: this one has a playwright already.
    path = tmp_path / "figures.json"
    options = ["--pause", "0.1", "--json", str(path)]
    command = [sys.executable, "-m", "studio", "bench", "first-minute", *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    moments = json.loads(path.read_text(encoding="utf-8"))["moments_s"]
    assert list(moments) == list(first_minute.NAMES)
    assert list(moments.values()) == sorted(moments.values())
