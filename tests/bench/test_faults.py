"""The bench of faults injects what it says, and notices what it is there to notice."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.bench import faults
from studio.bench.faults import disks, growth, operations, tabs, trial
from studio.bench.faults.operations import Home, make_homes
from studio.store import Store

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("strace") is None,
    reason="faults are injected with strace, on Linux",
)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Home]:
    return make_homes(tmp_path_factory.mktemp("homes"))


def test_a_pick_is_killed_where_it_was_meant_to_be(homes, tmp_path):
    calls = trial.calls_of(homes["new"], "a pick", tmp_path)
    names = [name for name, _ in calls]
    assert names.index("pwrite64") < names.index("fdatasync") < names.index("unlink")
    row = trial.Row("x")
    with trial.copy_of(homes["new"], tmp_path) as copy:
        done = trial.run(copy, "a pick", "unlink:signal=SIGKILL:when=1")
        assert (done.status, done.acknowledged) == (-signal.SIGKILL, [])
        trial.tally(row, "unlink 1", homes["new"], copy, done)
    assert row.is_clean, row.problems
    assert row.tried == 1


def forgetful(home: Path) -> Iterator[str]:
    """Says that it kept a pick, and did not."""
    yield "pick never left"


def careless(home: Path) -> Iterator[str]:
    """Writes over a picture in its place, and breaks off."""
    picture = sorted(home.glob("sessions/*/images/*.png"))[0]
    picture.write_bytes(picture.read_bytes()[:20])
    yield from ()


def unforeseen(home: Path) -> Iterator[str]:
    raise ZeroDivisionError
    yield


@pytest.mark.parametrize(
    ("operation", "counts", "problem"),
    [
        (forgetful, (1, 0), "lost pick never left"),
        (careless, (1, 1), "torn the file"),
        (unforeseen, (0, 0), "ZeroDivisionError"),
    ],
)
def test_what_is_lost_or_torn_or_not_said_is_noticed(
    homes, tmp_path, monkeypatch, operation, counts, problem
):
    monkeypatch.setitem(operations.OPERATIONS, "it", operation)
    row = trial.Row("x")
    with trial.copy_of(homes["new"], tmp_path) as copy:
        trial.tally(row, "it", homes["new"], copy, trial.run(copy, "it"))
    assert (row.lost, row.torn) == counts
    assert any(problem in one for one in row.problems), row.problems
    assert not row.is_clean


def test_an_answer_that_does_not_count_is_noticed(homes):
    home = homes["new"]
    with contextlib.closing(Store.open(home.path)) as store:
        pair_id = next(
            row.pair.id for row in store.picked_pairs(home.session_id) if row.pick.id == "pick3"
        )

    def lost(*both: tabs.Answers) -> list[str]:
        return tabs.replaced_without_a_word(home.path, home.session_id, list(both))

    nothing, other = tabs.Answers(), tabs.Answers({pair_id: "never kept"})
    assert lost(tabs.Answers({pair_id: "pick3"}), nothing) == []
    assert lost(tabs.Answers({pair_id: "pick3"}), other) == []
    assert lost(other, nothing) == [f"an answer to {pair_id}"]
    assert lost(other, tabs.Answers(sent=(pair_id, "pick3"))) == []


def test_what_hangs_is_noticed(homes, tmp_path, monkeypatch):
    def hangs(home: Path) -> Iterator[str]:
        while True:
            pass
        yield

    monkeypatch.setitem(operations.OPERATIONS, "it", hangs)
    monkeypatch.setattr(trial, "LIMIT_S", 1.0)
    with trial.copy_of(homes["new"], tmp_path) as copy:
        assert trial.run(copy, "it").status is None


def test_the_command_writes_its_rows_and_fails_when_something_was_lost(
    tmp_path, monkeypatch, capsys
):
    out = tmp_path / "rows.json"
    arguments = ["--quick", "--only", "cut short: latents", "--json", str(out)]
    assert faults.main(arguments) == 0
    [row] = json.loads(out.read_text())["rows"]
    assert (row["fault"], row["tried"], row["lost"]) == ("cut short: latents", 6, 0)
    assert "| **all** | 6 | 0 | 0 | 0 |" in capsys.readouterr().out
    monkeypatch.setattr("studio.store.doctor.require_whole", lambda path, expected: None)
    assert faults.main(arguments) == 1


def test_the_golden_store_opens(homes, tmp_path):
    with trial.copy_of(homes["old"], tmp_path) as copy:
        store = Store.open(copy)
        [session] = store.sessions()
        assert session.name == "Before checksums"
        assert len(store.picked_pairs(session.id)) == 7  # and one was taken back
        assert store.waiting_count(session.id) == 5
        assert store.rounds(session.id)[0].state == "queued"
        store.close()


def reads_as_its_square(text: str) -> None:
    for _ in text:
        for _ in text:
            pass


def reads_nothing_unforeseen(text: str) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("read", "problem"),
    [(reads_as_its_square, "for 4 times as much"), (reads_nothing_unforeseen, "ZeroDivision")],
)
def test_work_that_grows_as_its_square_is_noticed(read, problem):
    row = trial.Row("x")
    growth.tally(row, growth.Reader("x", read, ("a",), 10), "a", 10)
    assert (row.tried, row.torn) == (1, 1)
    assert problem in row.problems[0]


def test_a_text_that_takes_too_long_is_noticed(monkeypatch):
    monkeypatch.setattr(growth, "LIMIT_S", -1.0)
    row = trial.Row("x")
    growth.tally(row, growth.Reader("x", len, ("a",), 10), "a", 10)
    assert (row.tried, row.torn, row.hung) == (1, 0, 1)


def test_every_reader_of_texts_does_work_in_time_of_their_length(homes, tmp_path):
    rows = list(growth.rows(homes, tmp_path, True, False, lambda fault: "ComfyUI" in fault))
    assert [(row.tried, row.is_clean) for row in rows] == [(3, True)]


def test_a_home_that_may_not_be_written_to_is_a_sentence(homes, tmp_path, monkeypatch):
    def careless(home: Path) -> Iterator[str]:
        (home / "new").write_text("x")
        yield from ()

    monkeypatch.setattr(disks, "SHORT", ("a pick", "an export"))
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents[:2]:  # of pytest, for one user alone
        folder.chmod(0o755)
    row = disks.read_only(trial.Row("x"), homes, tmp_path)
    assert row.tried == 6
    assert row.is_clean, row.problems
    monkeypatch.setitem(operations.OPERATIONS, "a pick", careless)
    row = disks.read_only(trial.Row("x"), homes, tmp_path)
    assert "PermissionError" in row.problems[0]


def test_a_worker_killed_in_an_export_makes_it_again(tmp_path):
    rows = faults.rounds.rows({}, tmp_path, True, True, lambda fault: "export" in fault)
    [row] = rows
    assert row.tried == faults.rounds.QUICK_STOPS
    assert row.is_clean, row.problems
