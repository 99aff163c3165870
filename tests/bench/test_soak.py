"""The soak works a real studio, and notices what it is there to notice."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from studio.bench import soak


def test_growth_is_told_by_the_hour_of_the_artist():
    """A megabyte every six seconds is ten a minute; at ten times human speed, sixty an hour."""
    readings = [{"at_s": 6.0 * n, "web_memory_mb": 100.0 + n} for n in range(30)]
    assert soak.summary(readings) == {
        "web_memory_mb": {
            "first_third": 104.5,
            "middle_third": 114.5,
            "last_third": 124.5,
            "an_hour": pytest.approx(60.0),
        }
    }


def test_what_should_not_have_been_is_noticed(store, session, add_pairs, home):
    [first, second] = add_pairs(2)
    store.add_answer("kept", first.id, "left")
    store.add_answer("changed", second.id, "left")
    (home / "sessions" / session.id / "images").mkdir(parents=True)
    (home / "sessions" / session.id / "images" / "stray.png").write_bytes(b"x")
    said = {"kept": "left", "changed": "right", "lost": "left"}
    artist = SimpleNamespace(acknowledged=said)
    found = list(soak.complaints(home, artist, {"web": 1, "worker": 2}, {"web": 1, "worker": 3}))
    assert "the worker process was restarted" in found
    assert "pick changed was acknowledged and is lost" in found
    assert "pick lost was acknowledged and is lost" in found
    assert not any("kept" in one or "web" in one for one in found)
    assert any(one.startswith("orphaned: ") and "stray" in one for one in found)


@pytest.mark.nightly  # a whole run of a benchmark
@pytest.mark.slow
def test_a_minute_of_it_in_a_real_studio(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("UNDO_S", "BROWSE_S", "RELOAD_S"):
        monkeypatch.setattr(soak, name, 30.0)
    out = tmp_path / "soak.json"
    soak.main(["--minutes", "0.3", "--json", str(out)])
    figures = json.loads(out.read_text())
    assert figures["done"]["picks"]
    assert figures["done"]["loads"]
    # In so short a time the memory of a worker that has just begun to learn still grows.
    assert [one for one in figures["problems"] if "memory" not in one] == []
    assert set(figures["values"]) > {"web_memory_mb", "worker_memory_mb", "other_files"}
