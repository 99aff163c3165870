"""A session as one file: all of it goes on elsewhere, and a hostile one leaves nothing behind."""

from __future__ import annotations

import contextlib
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio.__main__ import main
from studio.store import (
    ArchiveError,
    Session,
    Store,
    StoreError,
    StoreFull,
    examine_files,
    export_session,
    import_session,
)
from tests.support.archives import Change, fill, rewritten


@pytest.fixture
def archive(store: Store, session: Session, tmp_path: Path) -> Path:
    fill(store, session)
    path = tmp_path / "session.zip"
    assert export_session(store, session.id, path) == 0
    return path


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store.open(tmp_path / "other")) as store:
        yield store


def shape(store: Store, session: Session) -> dict[str, Any]:
    """What an artist would miss, without ids."""
    return {
        "name": session.name,
        "settings": session.settings,
        "picks": [
            (one.pick.choice, one.pick.marks, one.pair.prompt)
            for one in store.picked_pairs(session.id)
        ],
        "waiting": store.waiting_count(session.id),
        "counts": store.pick_counts(session.id),
        "consistency": store.consistency(session.id),
        "rounds": [(one.number, len(one.train_pick_ids)) for one in store.rounds(session.id)],
        "adapters": [(one.number, one.sha256) for one in store.adapters(session.id)],
        "exports": [(one.name, one.files) for one in store.exports(session.id)],
    }


def everything(home: Path) -> list[str]:
    """Files below the home that an import could have left."""
    found = [path for folder in ("sessions", "imports") for path in (home / folder).rglob("*")]
    return sorted(str(path) for path in found if path.name != "imports")


def test_everything_goes_on_elsewhere(store, session, archive, other):
    made = import_session(other, archive)
    assert shape(other, made) == shape(store, store.session(session.id))
    assert made.current_adapter_id == other.adapters(made.id)[0].id
    found = examine_files(other)
    assert (found.missing, found.damaged, found.orphaned) == ([], [], [])
    assert found.looked_at == examine_files(store).looked_at
    [done, left] = other.rounds(made.id)
    assert (done.state, left.state, left.updates_done) == ("done", "paused", 0)
    assert other.metrics(done.id)[0].values["loss"] == 0.7
    picked = {one.pick.id for one in other.picked_pairs(made.id)}
    assert set(left.train_pick_ids + left.held_out_pick_ids) & picked
    [job] = other.jobs(made.id)  # what was not done yet was not taken along
    assert other.image(job.result["cells"][0]["base"]).adapter_id == made.current_adapter_id
    other.add_answer("goes on", other.waiting_pairs(made.id)[0].id, "left")


def test_it_can_be_taken_in_twice_and_beside_itself(store, session, archive):
    made = [import_session(store, archive) for _ in range(2)]
    assert len({session.id, *(one.id for one in made)}) == 3
    assert shape(store, made[0]) == shape(store, made[1])


def test_a_missing_file_is_told_and_left_out(store, session, archive, other, tmp_path):
    store.image_path(store.waiting_pairs(session.id)[0].left).unlink()
    assert export_session(store, session.id, tmp_path / "second.zip") == 1
    import_session(other, tmp_path / "second.zip")
    assert len(examine_files(other).missing) == 1


def test_an_archive_is_never_written_over(store, session, archive):
    before = archive.read_bytes()
    with pytest.raises(StoreError, match="choose another name"):
        export_session(store, session.id, archive)
    assert archive.read_bytes() == before


def test_an_archive_for_which_there_is_no_room_is_not_begun(
    store, session, archive, tmp_path, monkeypatch
):
    monkeypatch.setattr("studio.store.archive.writing.free_bytes", lambda folder: 100_000_000)
    with pytest.raises(StoreFull, match="has room for 100 MB"):
        export_session(store, session.id, tmp_path / "second.zip")
    assert not (tmp_path / "second.zip").exists()


def test_on_the_command_line(store, session, archive, tmp_path, capsys):
    home = ["--home", str(store.home)]
    out = tmp_path / "out.zip"
    assert main(["sessions", "export", *home, "--session", session.name, "--out", str(out)]) == 0
    assert main(["sessions", "import", *home, str(out)]) == 0
    assert main(["sessions", "list", *home]) == 0
    assert capsys.readouterr().out.count(session.name) == 3
    assert main(["sessions", "import", *home, str(tmp_path / "nowhere.zip")]) == 1
    assert "There is no archive" in capsys.readouterr().err


# --- hostile archives ----------------------------------------------------------------------------


def listed(document: dict[str, Any], files: dict[str, bytes], name: str, content: bytes) -> None:
    import hashlib

    files[name] = content
    digest = hashlib.sha256(content).hexdigest()
    document["files"][name] = {"bytes": len(content), "sha256": digest}


def with_file(name: str, content: bytes = b"x") -> Change:
    return lambda document, files: listed(document, files, name, content)


def in_row(table: str, **values: Any) -> Change:
    return lambda document, files: document["tables"][table][0].update(values)


def double(document: dict[str, Any], files: dict[str, bytes]) -> None:
    document["tables"]["images"].append(document["tables"]["images"][0])


def swap_content(document: dict[str, Any], files: dict[str, bytes]) -> None:
    name = next(name for name in files if name.startswith("images/"))
    files[name] = bytes(len(files[name]))


def lie_about_size(document: dict[str, Any], files: dict[str, bytes]) -> None:
    next(iter(document["files"].values()))["bytes"] = 1


def drop(table: str) -> Change:
    return lambda document, files: document["tables"][table].clear()


HOSTILE: dict[str, tuple[Change, str]] = {
    "zip-slip": (with_file("../../evil.py"), "outside of itself"),
    "zip-slip in between": (with_file("images/../../evil.py"), "outside of itself"),
    "an absolute path": (with_file("/etc/evil"), "outside of itself"),
    "a drive": (with_file("C:/evil"), "outside of itself"),
    "a backslash": (with_file("images\\..\\evil"), "outside of itself"),
    "a stream": (with_file("images/x.png:evil"), "outside of itself"),
    "a line break": (with_file("images/x\n.png"), "outside of itself"),
    "a picture that is gone and yet shown": (
        lambda d, f: d["tables"]["images"][0].update(deleted_at_s=None, erased_at_s=1.0),
        "invalid erased_at_s",
    ),
    "a file of nobody": (with_file("images/unknown.png"), "of no picture"),
    "a pickle of nobody": (with_file("checkpoints/x.pt"), "of no picture"),
    "another format": (lambda d, f: d.update(format="other"), "not an archive of a session"),
    "rows that are none": (
        lambda d, f: d.update(version=1) or d["tables"].update(pairs=[1, "a"]),
        "not a set of named values",
    ),
    "no texts beside": (
        lambda d, f: d["tables"]["images"][0].update(beside={"VAE": 3}),
        "invalid",
    ),
    "another version": (lambda d, f: d.update(version=99), "another version"),
    "no tables": (lambda d, f: d.pop("tables"), "incomplete"),
    "a table that is none": (lambda d, f: d["tables"].update(evil=[]), "other tables"),
    "a table that is no list": (lambda d, f: d["tables"].update(jobs=7), "incomplete"),
    "two sessions": (lambda d, f: d["tables"].update(sessions=[{}, {}]), "one session"),
    "a column too many": (in_row("picks", evil=1), "other columns"),
    "a wrong type": (in_row("images", seed="7"), "invalid seed"),
    "a number that is none": (in_row("images", strength=float("nan")), "invalid strength"),
    "an unknown word": (in_row("picks", choice="evil"), "invalid choice"),
    "a setting that is none": (in_row("sessions", settings={"evil": 1}), "invalid"),
    "a setting of a wrong type": (
        in_row("rounds", settings={"rank": "8"}),
        "invalid",
    ),
    "steps of a wrong type": (in_row("images", sampling={"steps": 4.5}), "invalid"),
    "half a character": (in_row("images", prompt="\ud800"), "invalid prompt"),
    "an id that is a path": (in_row("images", id="../../evil"), "invalid id"),
    "an id twice": (double, "invalid id"),
    "an export that is a path": (in_row("exports", files=["../evil"]), "invalid name"),
    "a reference to nowhere": (in_row("pairs", left_image_id="gone"), "not there"),
    "another content": (swap_content, "is damaged"),
    "another size": (lie_about_size, "another size"),
    "no pairs for its picks": (drop("pairs"), "not there"),
}


@pytest.mark.parametrize(
    ("path", "left"),
    [
        (r"\\server\share\models\mine.safetensors", "mine.safetensors"),
        ("//server/share/mine.safetensors", "mine.safetensors"),
        (r"\/server\share", "share"),
        (r"\\?\UNC\server\share\mine.ckpt", "mine.ckpt"),
        ("  //server/share ", "share"),
        ("smb://server/share/mine.safetensors", "mine.safetensors"),
        ("file://server/share/mine.safetensors", "mine.safetensors"),
        ("//", "missing"),
        (r"C:\models\mine.safetensors", r"C:\models\mine.safetensors"),
        ("/models/mine.safetensors", "/models/mine.safetensors"),
        ("owner/name", "owner/name"),
    ],
)
def test_no_path_of_another_machine_comes_in(archive, other, path, left):
    """Looking for a file of a Windows share already sends the artist's credentials there."""

    def change(document: dict[str, Any], files: dict[str, bytes]) -> None:
        settings = document["tables"]["sessions"][0]["settings"]
        settings |= {"base_model": path, "start": {"path": path, "strength": 0.5}}

    made = import_session(other, rewritten(archive, change))
    assert (made.settings.base_model, made.settings.start.path) == (left, left)
    assert made.settings.start.strength == 0.5


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6, 7])
def test_an_archive_of_an_older_version_knows_less(archive, other, version):
    """Version 7 no mixes in exams, 6 no marks, 5 no deleted pictures, 4 no judges, 3 no favourites
    of a round, 2 nothing of what lies beside a model, and 1 no grids."""
    lacks = [("exams", "mix")]
    if version <= 6:
        lacks.append(("picks", "marks"))
    if version <= 5:
        lacks += [("images", "deleted_at_s"), ("images", "erased_at_s")]
    if version <= 4:
        lacks.append(("picks", "judge"))
    if version <= 3:
        lacks.append(("rounds", "favourite_ids"))
    if version <= 2:
        lacks.append(("images", "beside"))
    if version == 1:
        lacks.append(("pairs", "grid_id"))

    def made_older(document, files):
        document["version"] = version
        for table, column in lacks:
            for row in document["tables"][table]:
                del row[column]

    made = import_session(other, rewritten(archive, made_older))
    assert all(one.pair.left.companions == {} for one in other.picked_pairs(made.id))
    assert all(round_.favourite_ids == () for round_ in other.rounds(made.id))
    assert all(one.pick.judge is None for one in other.picked_pairs(made.id))
    if version <= 6:
        assert all(one.pick.marks == {} for one in other.picked_pairs(made.id))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_a_sentence_and_leaves_nothing(archive, other, name):
    change, sentence = HOSTILE[name]
    path = rewritten(archive, change)
    with pytest.raises(StoreError, match=sentence):
        import_session(other, path)
    assert other.sessions() == []
    assert everything(other.home) == []


def test_rows_that_contradict_each_other_are_refused(archive, other):
    def two_firsts(document: dict[str, Any], files: dict[str, bytes]) -> None:
        picks = document["tables"]["picks"]
        picks.append({**picks[0], "id": "another"})

    with pytest.raises(ArchiveError, match="contradict"):
        import_session(other, rewritten(archive, two_firsts))
    assert other.sessions() == []
    assert everything(other.home) == []


def test_names_that_are_one_on_other_systems_are_refused(archive, other):
    for first, second in (("images/A.png", "images/a.png"), ("é.png", "e\u0301.png")):
        path = archive.with_name("clash.zip")
        with zipfile.ZipFile(path, "w") as new:
            new.writestr(first, "x")
            new.writestr(second, "x")
        with pytest.raises(ArchiveError, match="two files of one name"):
            import_session(other, path)


def test_a_link_is_refused(archive, other):
    path = archive.with_name("link.zip")
    with zipfile.ZipFile(path, "w") as new:
        link = zipfile.ZipInfo("images/x.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        new.writestr(link, "/etc/passwd")
    with pytest.raises(ArchiveError, match="other than a file"):
        import_session(other, path)


def test_a_bomb_is_refused_before_it_goes_off(archive, other):
    bomb = rewritten(archive, with_file("images/x.png", bytes(10_000_000)), zipfile.ZIP_DEFLATED)
    with pytest.raises(ArchiveError, match="grows too much"):
        import_session(other, bomb)
    assert everything(other.home) == []


def test_a_file_that_says_it_is_smaller_than_it_is(archive, other):
    """The sizes in a zip are only claims: here both places that hold one of them lie."""
    import struct

    content = bytearray(rewritten(archive, lambda d, f: None, zipfile.ZIP_DEFLATED).read_bytes())
    with zipfile.ZipFile(archive.with_name("hostile.zip")) as old:
        entry = next(one for one in old.infolist() if one.filename.startswith("trajectories/"))
    content = content.replace(
        struct.pack("<LLL", entry.CRC, entry.compress_size, 3000),
        struct.pack("<LLL", entry.CRC, entry.compress_size, 30),
    )
    path = archive.with_name("liar.zip")
    path.write_bytes(content)
    with pytest.raises(ArchiveError):
        import_session(other, path)
    assert everything(other.home) == []


def test_what_is_no_archive_at_all(other, tmp_path):
    path = tmp_path / "file.zip"
    for content in (b"", b"PK\x03\x04", b"x" * 5000):
        path.write_bytes(content)
        with pytest.raises(ArchiveError, match="damaged, or is not an archive"):
            import_session(other, path)
    with pytest.raises(ArchiveError, match="There is no archive"):
        import_session(other, tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_value_anywhere_is_taken_or_refused_with_a_sentence(archive, other, data):
    """What is taken is a whole session that can be read back; what is refused leaves nothing."""

    def change(document: dict[str, Any], files: dict[str, bytes]) -> None:
        tables = document["tables"]
        table = data.draw(st.sampled_from(sorted(name for name in tables if tables[name])))
        row = data.draw(st.sampled_from(range(len(tables[table]))))
        column = data.draw(st.sampled_from(sorted(tables[table][row])))
        tables[table][row][column] = data.draw(JSON)

    sessions, files = len(other.sessions()), everything(other.home)
    try:
        made = import_session(other, rewritten(archive, change))
    except StoreError:
        assert len(other.sessions()) == sessions
        assert everything(other.home) == files
    else:
        shape(other, made)
        assert other.session(made.id).name == made.name


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_damage_is_noticed(archive, other, data):
    content = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path = archive.with_name("damaged.zip")
    path.write_bytes(content)
    before = everything(other.home)
    try:
        made = import_session(other, path)
    except StoreError:
        assert everything(other.home) == before
    else:  # a bit that says nothing, such as the time of a file
        found = [one for one in examine_files(other).damaged if made.id in one]
        assert found == []
