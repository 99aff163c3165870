"""Files of watched folders, as they were when they were read."""

from __future__ import annotations

from dataclasses import replace

from studio.store import SeenFile, Store, export_session, import_session


def test_a_file_is_remembered_as_it_was_last(store, session):
    first = [SeenFile("a.png", 1, 2, 3.0), SeenFile("b.png", 1, 2, 3.0, "it is damaged.")]
    store.add_seen_files(session.id, "/x", first)
    store.add_seen_files(session.id, "/y", first[:1])
    assert store.seen_files(session.id, "/x") == first
    assert store.left_out_since(session.id, "/x", 0.0) == ["b.png: it is damaged."]
    assert store.left_out_since(session.id, "/x", 3.0) == []
    again = SeenFile("b.png", 5, 6, 7.0)
    store.add_seen_files(session.id, "/x", [again])
    assert store.seen_files(session.id, "/x") == [first[0], again]
    assert store.left_out_since(session.id, "/x", 0.0) == []


def test_an_archive_watches_no_folder_of_another_machine(store, session, tmp_path):
    watched = replace(session.settings, folder="//server/share", watch_folder=True)
    store.update_settings(session.id, watched)
    export_session(store, session.id, tmp_path / "session.zip")
    other = Store.open(tmp_path / "other")
    there = import_session(other, tmp_path / "session.zip").settings
    assert (there.folder, there.watch_folder) == ("", False)
    other.close()
