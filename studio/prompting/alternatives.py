"""Prompts with alternatives: `a {red|green} apple`, and `a __animal__` from a list of the artist's.

The syntax is that of the dynamicprompts library, which many artists know from A1111. What a prompt
becomes belongs to its seed, so that the same draw says the same again.
"""

from __future__ import annotations

import contextlib
import logging
import re
from pathlib import Path

from dynamicprompts.generators import RandomPromptGenerator
from dynamicprompts.wildcards import WildcardManager
from dynamicprompts.wildcards.collection.text_file import WildcardTextFile
from pyparsing import ParseBaseException

from studio.prompting import text_files
from studio.settings import MAX_PROMPT_CHARACTERS, SettingsError

LIST = re.compile(r"__(\w(?:[\w/-]*\w)?)__")  # as in `a __animal__`, or `__animals/wild__`

# It logs, with tracebacks, what the artist is told in a sentence here.
logging.getLogger("dynamicprompts").setLevel(logging.CRITICAL)


def _lists(folder: Path) -> WildcardManager:
    """The artist's lists, each in the encoding that its file is in."""
    manager = WildcardManager(folder)
    for one in manager.match_collections("*"):
        if isinstance(one, WildcardTextFile):
            with contextlib.suppress(OSError, ValueError):  # then the library's own way must do
                one._encoding = text_files.encoding_of(one._path)
    return manager


def expand(prompt: str, seed: int, lists: Path) -> str:
    """The prompt with an alternative chosen wherever it leaves one open.

    lists: the folder of text files, one alternative a line, that `__names__` stand for. Raises
    SettingsError with a sentence when the prompt cannot be read or a list is missing.
    """
    if "{" not in prompt and not LIST.search(prompt):
        return prompt  # the rest of the syntax is left to those who need it: `50% off`, `$5`
    manager = _lists(lists)
    for name in LIST.findall(prompt):
        if not manager.get_values(name).string_values:
            raise SettingsError(
                f"“{prompt}” asks for the list {name}, and there is none: write {name}.txt, one "
                f"alternative on each line, into {lists}."
            )
    try:
        [text] = RandomPromptGenerator(manager, seed=seed).generate(prompt, 1)
    except RecursionError as error:
        raise SettingsError(f"The lists that “{prompt}” asks for name each other.") from error
    except (ParseBaseException, ValueError) as error:
        raise SettingsError(
            f"“{prompt}” cannot be read: alternatives are written {{cat|dog}}, with both braces, "
            "and without % or $ beside them."
        ) from error
    text = " ".join(text.split())
    if not text:
        raise SettingsError(f"“{prompt}” can come out empty: give every alternative a word.")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise SettingsError(f"“{prompt}” becomes longer than {MAX_PROMPT_CHARACTERS} characters.")
    return text
