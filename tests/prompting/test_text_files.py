"""Text files of artists in any encoding: the same words, and what they were taken for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.prompting import alternatives, text_files

SAYINGS = [
    ("a red café, naïve", "utf-8", "utf-8"),
    ("a red café, naïve", "utf-8-sig", "utf-8-sig"),
    ("a red café, naïve", "utf-16", "utf-16"),
    ("a red café, naïve", "utf-32", "utf-32"),
    ("a red apple", "utf-16-le", "utf-16-le"),
    ("a red apple", "utf-16-be", "utf-16-be"),
    ("café", "cp1252", "cp1252"),
    ("ein schönes Mädchen – auf der “Straße”", "cp1252", "cp1252"),
    ("красное яблоко на деревянном столе", "cp1251", "cp1251"),
    ("赤いリンゴがテーブルの上にある", "shift_jis", "shift_jis"),
    ("一个红苹果在桌子上,非常漂亮的照片", "gb18030", "gb18030"),
    ("", "utf-8", "utf-8"),
]


@pytest.mark.parametrize(("text", "written", "taken_for"), SAYINGS)
def test_a_text_is_read_in_the_encoding_it_is_in(
    text: str, written: str, taken_for: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(text.encode(written))
    found = text_files.read(path)
    assert (found.text, found.encoding) == (text, taken_for)
    assert found.is_guess == bool(caplog.messages) == (taken_for not in text_files.PLAIN)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")))
def test_what_is_utf_8_is_never_taken_for_anything_else(text: str) -> None:
    assert text_files.decoded(text.encode()) == text_files.Text(text, "utf-8")
    assert text_files.decoded(text.encode("utf-8-sig")).text == text
    assert text_files.decoded(text.encode("utf-16")).text == text


@given(st.binary(max_size=200))
def test_no_bytes_are_more_than_refused(content: bytes) -> None:
    try:
        found = text_files.decoded(content)
    except ValueError:
        return
    assert "\0" not in found.text


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_bytes(b"a" * 101)
    with pytest.raises(ValueError, match="longer than 100 bytes"):
        text_files.read(tmp_path / "long.txt", 100)
    with pytest.raises(OSError, match="not a file"):
        text_files.read(tmp_path)
    with pytest.raises(ValueError, match="no text"):
        text_files.decoded(b"\0" * 8)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("name", ["drinks", "at/home"])
def test_lists_are_read_so(encoding: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes("café crème\n".encode(encoding))
    (tmp_path / "chained.txt").write_bytes(f"__{name}__\n".encode(encoding))
    for asked in (name, "chained"):
        assert alternatives.expand(f"a __{asked}__", 1, tmp_path) == "a café crème"
