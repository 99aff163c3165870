"""Prompts with alternatives: `a {red|green} apple`, and `a __animal__` from a list of the artist's.

The syntax is that of the dynamicprompts library, which many artists know from A1111. What a prompt
becomes belongs to its seed, so that the same draw says the same again.
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
from dataclasses import dataclass
from pathlib import Path

from dynamicprompts.commands import Command, LiteralCommand
from dynamicprompts.enums import SamplingMethod
from dynamicprompts.samplers import CyclicalSampler, RandomSampler
from dynamicprompts.sampling_context import SamplingContext
from dynamicprompts.types import ResultGen
from dynamicprompts.wildcards import WildcardManager
from dynamicprompts.wildcards.collection.text_file import WildcardTextFile
from dynamicprompts.wildcards.values import WildcardValues
from pyparsing import ParseBaseException

from studio.prompting import text_files
from studio.settings import MAX_PROMPT_CHARACTERS, SettingsError

LIST = re.compile(r"__(\w(?:[\w/-]*\w)?)__")  # as in `a __animal__`, or `__animals/wild__`

# An expansion that needs more is given up: variables and lists that name others grow exponentially.
MOST_COMMANDS = 10_000  # parts of the prompt that are chosen or copied
MOST_LETTERS = 10 * MAX_PROMPT_CHARACTERS
# The library reads from a # to the end of the line as a comment, which nobody means by `apt #5`.
HASH = "\ue000"

# It logs, with tracebacks, what the artist is told in a sentence here.
logging.getLogger("dynamicprompts").setLevel(logging.CRITICAL)


class _Exhausted(Exception):
    """The expansion has used up its budget."""


@dataclass
class _Budget:
    """Counts an expansion's work while it runs."""

    commands: int = MOST_COMMANDS
    letters: int = MOST_LETTERS

    def spend(self, command: Command) -> None:
        self.commands -= 1
        if isinstance(command, LiteralCommand):
            self.letters -= len(command.literal)
        if self.commands < 0 or self.letters < 0:
            raise _Exhausted


class _Random(RandomSampler):
    def __init__(self, budget: _Budget) -> None:
        self.budget = budget

    def generator_from_command(self, command: Command, context: SamplingContext) -> ResultGen:
        self.budget.spend(command)
        return super().generator_from_command(command, context)


class _Cyclical(CyclicalSampler):
    def __init__(self, budget: _Budget) -> None:
        self.budget = budget

    def generator_from_command(self, command: Command, context: SamplingContext) -> ResultGen:
        self.budget.spend(command)
        return super().generator_from_command(command, context)


class _Lists(WildcardManager):
    """The artist's lists, each in the encoding that its file is in."""

    def get_values(self, wildcard: str) -> WildcardValues:
        for one in self.match_collections(wildcard):
            if isinstance(one, WildcardTextFile):
                with contextlib.suppress(OSError, ValueError):  # then the library's own way must do
                    one._encoding = text_files.encoding_of(one._path)
        return WildcardValues.from_items(
            value.replace("#", HASH) if isinstance(value, str) else value
            for value in super().get_values(wildcard).items
        )


def expand(prompt: str, seed: int, lists: Path) -> str:
    """The prompt with an alternative chosen wherever it leaves one open.

    lists: the folder of text files, one alternative a line, that `__names__` stand for. Raises
    SettingsError with a sentence when the prompt cannot be read or a list is missing.
    """
    if "{" not in prompt and not LIST.search(prompt):
        return prompt  # the rest of the syntax is left to those who need it: `50% off`, `$5`
    manager = _Lists(lists)
    for name in LIST.findall(prompt):
        if not manager.get_values(name).string_values:
            raise SettingsError(
                f"“{prompt}” asks for the list {name}, and there is none: write {name}.txt, one "
                f"alternative on each line, into {lists}."
            )
    budget = _Budget()
    drawn_at_random = _Random(budget)
    context = SamplingContext(
        default_sampling_method=SamplingMethod.RANDOM,
        wildcard_manager=manager,
        samplers={
            SamplingMethod.RANDOM: drawn_at_random,
            SamplingMethod.COMBINATORIAL: drawn_at_random,  # all combinations make no one prompt
            SamplingMethod.CYCLICAL: _Cyclical(budget),
        },
        rand=random.Random(seed),
    )
    try:
        [result] = context.sample_prompts(prompt.replace("#", HASH), 1)
    except _Exhausted as error:
        raise SettingsError(
            f"“{_short(prompt)}” becomes far too long: its variables or lists repeat one another. "
            "Use fewer of them inside each other."
        ) from error
    except RecursionError as error:
        raise SettingsError(
            f"“{_short(prompt)}” is nested too deeply, or its lists name each other."
        ) from error
    except KeyError as error:
        raise SettingsError(
            f"“{_short(prompt)}” uses a variable that it does not set: write ${{name=value}} first."
        ) from error
    except (ParseBaseException, ValueError) as error:
        raise SettingsError(
            f"“{prompt}” cannot be read: alternatives are written {{cat|dog}}, with both braces, "
            "and without % or $ beside them."
        ) from error
    text = " ".join(result.text.replace(HASH, "#").split())
    if not text:
        raise SettingsError(f"“{prompt}” can come out empty: give every alternative a word.")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise SettingsError(f"“{prompt}” becomes longer than {MAX_PROMPT_CHARACTERS} characters.")
    return text


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= 80 else f"{prompt[:79]}…"
