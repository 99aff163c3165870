"""Prompts with alternatives: `a {red|green} apple`, and `a __animal__` from the artist's lists.

The syntax is that of the dynamicprompts library, which many artists know from A1111. The seed
decides the alternatives, so the same seed always gives the same text.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import logging
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml
from dynamicprompts.commands import Command, LiteralCommand, VariantCommand, WildcardCommand
from dynamicprompts.enums import SamplingMethod
from dynamicprompts.samplers import RandomSampler
from dynamicprompts.sampling_context import SamplingContext
from dynamicprompts.sampling_result import SamplingResult
from dynamicprompts.types import ResultGen
from dynamicprompts.wildcards import WildcardManager
from dynamicprompts.wildcards.collection import WildcardCollection
from dynamicprompts.wildcards.collection.list import ListWildcardCollection
from dynamicprompts.wildcards.collection.structured import parse_structured_file
from dynamicprompts.wildcards.collection.text_file import WildcardTextFile
from dynamicprompts.wildcards.item import WildcardItem
from dynamicprompts.wildcards.values import WildcardValues
from pyparsing import ParseBaseException

from studio.prompting import text_files
from studio.settings import MAX_PROMPT_CHARACTERS, SettingsError

LIST = re.compile(r"__(\w(?:[\w/-]{0,200}\w)?)__")  # as in `a __animal__`, or `__animals/wild__`

# Budget of an expansion: variables and lists that name others can grow exponentially.
MOST_COMMANDS = 10_000  # parts of the prompt that are chosen or copied
MOST_LETTERS = 4 * MAX_PROMPT_CHARACTERS  # chosen, or read in lists
MOST_LISTS = 10_000  # in one JSON or YAML file

# The library takes these for comments or special syntax, which nobody means in `apt #5`,
# `https://example.org`, `$5` and `50% off`. Private letters replace them during the expansion.
_PLAIN = re.compile(r"#|//|/\*|(?<!\$)\$(?![${])|%(?!\{)")
_LETTERS = dict(zip(("#", "//", "/*", "$", "%"), map(chr, range(0xE000, 0xE005)), strict=True))

# The library logs tracebacks of errors that become sentences here.
logging.getLogger("dynamicprompts").setLevel(logging.CRITICAL)


class _Exhausted(Exception):
    """The expansion has used up its budget."""


@dataclass
class Budget:
    """Counts an expansion's work while it runs."""

    commands: int = MOST_COMMANDS
    letters: int = MOST_LETTERS

    def spend(self, command: Command) -> None:
        self.commands -= 1
        self.read(command.literal if isinstance(command, LiteralCommand) else "")

    def read(self, text: str) -> None:
        self.letters -= len(text)
        if self.commands < 0 or self.letters < 0:
            raise _Exhausted


class _Sampler(RandomSampler):
    """Draws every choice at random within a budget, also cyclic and combinatorial ones."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def generator_from_command(self, command: Command, context: SamplingContext) -> ResultGen:
        self.budget.spend(command)
        return super().generator_from_command(command, context)

    def _get_wildcard_choice_generator(
        self, context: SamplingContext, values: WildcardValues
    ) -> Iterator[str]:
        for line in super()._get_wildcard_choice_generator(context, values):
            self.budget.read(line)
            yield line

    def _get_variant(self, command: VariantCommand, context: SamplingContext) -> ResultGen:
        """The chosen lines of `{2$$__list__}`; the library itself would parse the whole list."""
        only = command.values[0] if len(command.values) == 1 else None
        if not isinstance(only, WildcardCommand):
            yield from super()._get_variant(command, context)
            return
        name = next(iter(context.sample_prompts(only.wildcard, 1))).text
        context = context.with_variables(only.variables)
        lines = context.wildcard_manager.get_values(name)
        least, most = sorted(min(n, len(lines)) for n in (command.min_bound, command.max_bound))
        while True:
            self.budget.commands -= len(lines) // 1000
            chosen = _choose(lines, context.rand.randint(least, most), context.rand)
            for line in chosen:
                self.budget.read(line)
            parts = [next(iter(context.sample_prompts(line, 1))) for line in chosen]
            yield SamplingResult.joined(parts, separator=command.separator)


def _choose(lines: WildcardValues, count: int, rand: random.Random) -> list[str]:
    """Distinct lines of a list, chosen by their weights."""
    if not lines.has_varied_weights:
        return rand.sample(lines.string_values, count)
    # Weighted sampling without replacement (Efraimidis & Spirakis, 2006).
    rank = [
        rand.random() ** (1 / weight) if (weight := getattr(line, "weight", 1)) > 0 else -1.0
        for line in lines.items
    ]
    indices = heapq.nlargest(count, range(len(lines)), key=rank.__getitem__)
    return [lines.string_values[index] for index in indices]


class _Missing(Exception):
    """There is no list of this name."""


class _Lists(WildcardManager):
    """The artist's lists; each is read at most once per expansion."""

    unread: tuple[str, ...] = ()  # reasons why files could not be read

    def get_values(self, wildcard: str) -> WildcardValues:
        name = _unescaped(wildcard)
        if name not in self._values_cache:
            items = super().get_values(name).items
            self._values_cache[name] = WildcardValues.from_items(map(_escaped_item, items))
        if not self._values_cache[name]:
            raise _Missing(name)
        return self._values_cache[name]


def _escaped_item(item: str | WildcardItem) -> str | WildcardItem:
    if isinstance(item, str):
        return _escaped(item)
    return dataclasses.replace(item, content=_escaped(item.content))


def _lists(folder: Path) -> _Lists:
    """The artist's lists, each read in the encoding of its file."""
    collections: dict[str, WildcardCollection] = {}
    unread = []
    for path in _files(folder):
        name = path.relative_to(folder)
        try:
            if path.suffix == ".txt":
                encoding = text_files.encoding_of(path)
                collections[name.with_suffix("").as_posix()] = WildcardTextFile(path, encoding)
            elif path.suffix in (".json", ".yaml"):
                status = path.stat()
                for own, lines in _structured(path, status.st_size, status.st_mtime_ns):
                    collections[(name.parent / own).as_posix()] = ListWildcardCollection(lines)
        except (OSError, ValueError) as error:
            unread.append(f"{name.as_posix()} is not read: {error}.")
    lists = _Lists(root_map={"": [collections]})
    lists.unread = tuple(unread)
    return lists


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder; links are followed, and each folder is entered once."""
    visited: set[str] = set()
    for path, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        folders[:] = [] if real in visited else sorted(f for f in folders if not f.startswith("."))
        yield from (Path(path, name) for name in sorted(names) if real not in visited)
        visited.add(real)


@lru_cache(maxsize=100)
def _structured(
    path: Path, _size_bytes: int, _mtime_ns: int
) -> tuple[tuple[str, tuple[str | WildcardItem, ...]], ...]:
    """(name, lines) of the lists in a JSON or YAML file. Raises OSError or ValueError."""
    text = text_files.read(path).text
    try:
        if path.suffix == ".yaml" and any(
            isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)
        ):  # aliases can make a short file expand without bounds
            raise ValueError(f"{path.name} refers to parts of itself")
        lists = itertools.islice(parse_structured_file(path), MOST_LISTS)
        return tuple((name, tuple(lines.get_values())) for name, lines in lists)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be read") from error


def expand(prompt: str, seed: int, lists: Path) -> str:
    """The prompt with all alternatives and lists replaced by a choice.

    lists: the folder of the text files that `__names__` refer to, with one alternative per line.
    Raises SettingsError with a sentence if the prompt is invalid or a list is missing.
    """
    if "{" not in prompt and not LIST.search(prompt):
        return prompt  # other characters of the syntax stay as they are: `50% off`, `$5`
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise SettingsError(f"A prompt is longer than {MAX_PROMPT_CHARACTERS} characters.")
    manager = _lists(lists)
    sampler = _Sampler(Budget())
    context = SamplingContext(
        default_sampling_method=SamplingMethod.RANDOM,
        wildcard_manager=manager,
        samplers=dict.fromkeys(SamplingMethod, sampler),  # with one draw, all methods are alike
        rand=random.Random(seed),
    )
    try:
        for name in LIST.findall(prompt):  # also lists that this seed does not choose
            manager.get_values(name)
        [result] = context.sample_prompts(_escaped(prompt), 1)
    except _Missing as error:
        raise SettingsError(
            f"“{_short(prompt)}” needs the list {error}, which does not exist: write {error}.txt, "
            f"one alternative per line, into {lists}. {' '.join(manager.unread[:3])}".rstrip()
        ) from error
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
    except (ParseBaseException, ValueError, AttributeError) as error:  # the library raises these
        raise SettingsError(
            f"“{_short(prompt)}” cannot be read: write alternatives as {{cat|dog}}, with both "
            "braces, lists as __animal__, and use $$, %{ and __ nowhere else."
        ) from error
    text = " ".join(_unescaped(result.text).split())
    if not text:
        raise SettingsError(f"“{_short(prompt)}” can become empty: give every alternative a word.")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise SettingsError(
            f"“{_short(prompt)}” becomes longer than {MAX_PROMPT_CHARACTERS} characters."
        )
    return text


def _escaped(text: str) -> str:
    return _PLAIN.sub(lambda match: _LETTERS[match[0]], text)


def _unescaped(text: str) -> str:
    for plain, letter in _LETTERS.items():
        text = text.replace(letter, plain)
    return text


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= 80 else f"{prompt[:79]}…"
