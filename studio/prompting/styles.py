"""Styles: words that are added to prompts, kept under a name in the form that A1111 keeps them in.

`styles.csv` has the columns name, prompt and negative_prompt; `{prompt}` in a style's words is
where the prompt goes, and without it the words come after the prompt.
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
    """Words for prompts and for what should not be in the picture."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""


def parse(text: str) -> dict[str, Style]:
    """The styles in a styles.csv, by name; raises SettingsError when it is none.

    A line with a name alone, with which others divide theirs into groups, is no style.
    """
    try:
        rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
        if not {"name", "prompt"} <= set(rows.fieldnames or COLUMNS):
            raise SettingsError(
                f"styles.csv is not read: its first line is not {','.join(COLUMNS)}."
            )
        read = [Style(*(_one_line(row.get(name) or "") for name in COLUMNS)) for row in rows]
    except csv.Error as error:
        raise SettingsError(f"styles.csv is not read: {error}.") from error
    return {s.name: s for s in read if s.name and (s.prompt or s.negative_prompt)}


def written(styles: Iterable[Style]) -> str:
    """The text of a styles.csv."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows((s.name, s.prompt, s.negative_prompt) for s in styles)
    return out.getvalue()


def styled(prompt: str, words: str) -> str:
    """The prompt with a style's words; one that has them already is left as it is."""
    before, place, after = words.partition(PLACE)
    if not place:
        before, after = "", f", {words}" if prompt and words else words
    if prompt.startswith(before) and prompt.endswith(after):
        return prompt
    return before + prompt + after


def _one_line(text: str) -> str:
    return " ".join(text.split())
