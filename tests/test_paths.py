"""Paths and names as people write, paste and drag them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio import models, paths
from studio.models import ModelError
from studio.paths import expanded, typed
from studio.settings import SettingsError
from studio.store import StoreError
from studio.store.sending import tool_folder
from studio.ui.tabs.prompt import library

PLAIN = "/home/me/my models/a.safetensors"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        f"  {PLAIN}\n",
        f'"{PLAIN}"',
        f"'{PLAIN}'",
        f"“{PLAIN}”",
        f"„{PLAIN}“",
        f"‘{PLAIN}’",
        f"«{PLAIN}»",
        f"« {PLAIN} »",
        f'" {PLAIN} "',
        f"\"'{PLAIN}'\"",
        "/home/me/my\\ models/a.safetensors",
        "file:///home/me/my%20models/a.safetensors",
        "file://localhost/home/me/my%20models/a.safetensors",
        "FILE:///home/me/my models/a.safetensors",
        "“file:///home/me/my%20models/a.safetensors”",
    ],
)
def test_a_path_is_understood_however_it_was_pasted(text: str) -> None:
    assert typed(text) == PLAIN


# Of a path that nobody has: what is there is taken as it was written.
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/\\")
    | st.sampled_from(" '\"`~%#?&()[]{}$!äé“”’"),
    min_size=1,
    max_size=12,
).filter(lambda name: name == name.strip() and name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))
AROUND = st.sampled_from(["", " ", "\n", "\r\n", " \t", "\u00a0"])


@given(PATHS, AROUND, AROUND)
def test_every_way_of_writing_a_path_is_undone(path: str, before: str, after: str) -> None:
    """As Windows, word processors, file managers and terminals write it."""
    escaped = re.sub(r"([^\w/.-])", r"\\\1", path)
    for written in (
        path,
        f'"{path}"',
        f"“{path}”",
        shlex.quote(path),
        "'" + path.replace("'", "'\\''") + "'",
        escaped,
        Path(path).as_uri(),
        f'"{Path(path).as_uri()}"',
    ):
        assert typed(f"{before}{written}{after}") == path


def test_a_path_of_windows_keeps_its_backslashes(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "C:\\Users\\me\\my models\\a.safetensors"
    monkeypatch.setattr(paths.Path, "is_dir", lambda path: False)
    assert typed(f'"{path}"') == path
    monkeypatch.setattr(paths.Path, "is_dir", lambda path: path == Path("/mnt/c"))
    assert typed('"\\\\server\\models"') == "\\\\server\\models"
    assert typed(f'"{path}"') == "/mnt/c/Users/me/my models/a.safetensors"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("https://huggingface.co/owner/name", "owner/name"),
        ("http://www.huggingface.co/owner/name/", "owner/name"),
        ("https://hf.co/owner/name?x=1#y", "owner/name"),
        ("“https://huggingface.co/owner/name/tree/main”", "owner/name"),
        ("https://huggingface.co/owner/name/blob/main/a.safetensors", "owner/name"),
        ("owner/name", "owner/name"),
        ("https://huggingface.co/owner", "https://huggingface.co/owner"),
        ("https://huggingface.co/datasets/a/b", "https://huggingface.co/datasets/a/b"),
        ("https://example.org/owner/name", "https://example.org/owner/name"),
        ("https://[", "https://["),
        ("file://server/share/a", "file://server/share/a"),
        ("file://[", "file://["),
        ("", ""),
        ('"', '"'),
        ('""', ""),
    ],
)
def test_an_address_of_the_hub_is_its_name_and_others_stay(text: str, name: str) -> None:
    assert typed(text) == name


@pytest.mark.parametrize("name", ["'a'", "a\\ b", "“a”", " b"])
def test_a_path_that_is_there_stays_as_it_is(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("x")
    assert expanded(typed(name.strip() if name == " b" else name)).name == name.strip()


@given(st.text(max_size=60) | st.text("\\\"'“”file:/ ~%2a[]", max_size=40))
def test_no_text_does_harm(text: str) -> None:
    expanded(typed(text))


def test_a_user_whom_nobody_knows_is_a_sentence() -> None:
    path = "~nobody-of-this-name/x"
    assert expanded(path) == Path(path)
    with pytest.raises(ModelError, match="There is no model at ~nobody-of-this-name/x"):
        models.inspect(path)
    with pytest.raises(ValueError, match="There is no folder at ~nobody-of-this-name/x"):
        library.with_folder([], path)
    with pytest.raises(StoreError, match="Write the whole path"):
        tool_folder(path)


def test_nothing_written_is_a_sentence() -> None:
    for text in ("", " ", "“”"):
        with pytest.raises((ValueError, SettingsError), match="Write the path"):
            library.with_folder([], text)
