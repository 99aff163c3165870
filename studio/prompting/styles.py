"""Styles: named words that are added to prompts, in A1111's file format.

`styles.csv` has the columns name, prompt and negative_prompt. The prompt replaces `{prompt}` in a
style's words; without it, the words follow the prompt.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass

from studio.settings import SettingsError

COLUMNS = ("name", "prompt", "negative_prompt")
PLACE = "{prompt}"


@dataclass(frozen=True)
class Style:
    """Words for prompts and for negative prompts."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""


def parse(text: str) -> dict[str, Style]:
    """The styles of a styles.csv, by name. Raises SettingsError if it is invalid.

    A line with only a name, which some artists use as a separator, is no style.
    """
    try:
        rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
        if not {"name", "prompt"} <= set(rows.fieldnames or COLUMNS):
            raise SettingsError(
                f"styles.csv cannot be read: its first line must be {','.join(COLUMNS)}."
            )
        read = [Style(*(_one_line(row.get(name) or "") for name in COLUMNS)) for row in rows]
    except csv.Error as error:
        raise SettingsError(f"styles.csv cannot be read: {error}.") from error
    return {s.name: s for s in read if s.name and (s.prompt or s.negative_prompt)}


def written(styles: Iterable[Style]) -> str:
    """The text of a styles.csv."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows((s.name, s.prompt, s.negative_prompt) for s in styles)
    return out.getvalue()


def styled(prompt: str, words: str) -> str:
    """The prompt with a style's words; a prompt that has them already stays as it is."""
    before, marker, after = words.partition(PLACE)
    if not marker:
        before, after = "", f", {words}" if prompt and words else words
    if prompt.startswith(before) and prompt.endswith(after):
        return prompt
    return before + prompt + after


def _one_line(text: str) -> str:
    return " ".join(text.split())
