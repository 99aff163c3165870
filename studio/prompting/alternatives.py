"""Prompts with alternatives: `a {red|green} apple`, and `a __animal__` from a list of the artist's.

The syntax is that of the dynamicprompts library, which many artists know from A1111. What a prompt
becomes belongs to its seed, so that the same draw says the same again.
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

# An expansion that needs more is given up: variables and lists that name others grow exponentially.
MOST_COMMANDS = 10_000  # parts of the prompt that are chosen or copied
MOST_LETTERS = 4 * MAX_PROMPT_CHARACTERS  # that are drawn, or read in lists
MOST_LISTS = 10_000  # in one JSON or YAML file

# What the library would take for a comment, or would not read at all, and nobody means so in
# `apt #5`, `https://example.org`, `$5` and `50% off`: letters that stand for it meanwhile.
_PLAIN = re.compile(r"#|//|/\*|(?<!\$)\$(?![${])|%(?!\{)")
_LETTERS = dict(zip(("#", "//", "/*", "$", "%"), map(chr, range(0xE000, 0xE005)), strict=True))

# It logs, with tracebacks, what the artist is told in a sentence here.
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
    """Draws every choice at random within a budget, those that are asked for in turn as well."""

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
        """Of `{2$$__list__}`, the lines that are drawn; the library would parse the whole list."""
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
            drawn = _drawn(lines, context.rand.randint(least, most), context.rand)
            for line in drawn:
                self.budget.read(line)
            parts = [next(iter(context.sample_prompts(line, 1))) for line in drawn]
            yield SamplingResult.joined(parts, separator=command.separator)


def _drawn(lines: WildcardValues, count: int, rand: random.Random) -> list[str]:
    """Different lines of a list, each as likely as its weight has it."""
    if not lines.has_varied_weights:
        return rand.sample(lines.string_values, count)
    # The larger the weight, the nearer to 1 its power of a random number comes.
    rank = [
        rand.random() ** (1 / weight) if (weight := getattr(line, "weight", 1)) > 0 else -1.0
        for line in lines.items
    ]
    places = heapq.nlargest(count, range(len(lines)), key=rank.__getitem__)
    return [lines.string_values[place] for place in places]


class _Missing(Exception):
    """There is no list of this name."""


class _Lists(WildcardManager):
    """The artist's lists: read once an expansion, however often it asks for them."""

    unread: tuple[str, ...] = ()  # why files of lists could not be read

    def get_values(self, wildcard: str) -> WildcardValues:
        name = _unescaped(wildcard)
        if name not in self._values_cache:
            found = super().get_values(name).items
            self._values_cache[name] = WildcardValues.from_items(map(_escaped_item, found))
        if not self._values_cache[name]:
            raise _Missing(name)
        return self._values_cache[name]


def _escaped_item(item: str | WildcardItem) -> str | WildcardItem:
    if isinstance(item, str):
        return _escaped(item)
    return dataclasses.replace(item, content=_escaped(item.content))


def _lists(folder: Path) -> _Lists:
    """The artist's lists, each in the encoding that its file is in."""
    found: dict[str, WildcardCollection] = {}
    unread = []
    for path in _files(folder):
        name = path.relative_to(folder)
        try:
            if path.suffix == ".txt":
                encoding = text_files.encoding_of(path)
                found[name.with_suffix("").as_posix()] = WildcardTextFile(path, encoding)
            elif path.suffix in (".json", ".yaml"):
                status = path.stat()
                for own, lines in _structured(path, status.st_size, status.st_mtime_ns):
                    found[(name.parent / own).as_posix()] = ListWildcardCollection(lines)
        except (OSError, ValueError) as error:
            unread.append(f"{name.as_posix()} is not read: {error}.")
    lists = _Lists(root_map={"": [found]})
    lists.unread = tuple(unread)
    return lists


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder; links are followed, each folder once."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(f for f in folders if not f.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if real not in seen)
        seen.add(real)


@lru_cache(maxsize=100)
def _structured(
    path: Path, _size_bytes: int, _mtime_ns: int
) -> tuple[tuple[str, tuple[str | WildcardItem, ...]], ...]:
    """(name, lines) of the lists in a JSON or YAML file. Raises OSError; ValueError for others."""
    text = text_files.read(path).text
    try:
        if path.suffix == ".yaml" and any(
            isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)
        ):  # few letters that say a thousand others a thousand times
            raise ValueError(f"{path.name} refers to parts of itself")
        lists = itertools.islice(parse_structured_file(path), MOST_LISTS)
        return tuple((name, tuple(found.get_values())) for name, found in lists)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be read") from error


def expand(prompt: str, seed: int, lists: Path) -> str:
    """The prompt with an alternative chosen wherever it leaves one open.

    lists: the folder of text files, one alternative a line, that `__names__` stand for. Raises
    SettingsError with a sentence when the prompt cannot be read or a list is missing.
    """
    if "{" not in prompt and not LIST.search(prompt):
        return prompt  # the rest of the syntax is left to those who need it: `50% off`, `$5`
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise SettingsError(f"A prompt is longer than {MAX_PROMPT_CHARACTERS} characters.")
    manager = _lists(lists)
    sampler = _Sampler(Budget())
    context = SamplingContext(
        default_sampling_method=SamplingMethod.RANDOM,
        wildcard_manager=manager,
        samplers=dict.fromkeys(SamplingMethod, sampler),  # one prompt is drawn: there is no turn
        rand=random.Random(seed),
    )
    try:
        for name in LIST.findall(prompt):  # those that are not drawn this time as well
            manager.get_values(name)
        [result] = context.sample_prompts(_escaped(prompt), 1)
    except _Missing as error:
        raise SettingsError(
            f"“{_short(prompt)}” asks for the list {error}, and there is none: write {error}.txt, "
            f"one alternative on each line, into {lists}. {' '.join(manager.unread[:3])}".rstrip()
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
    except (ParseBaseException, ValueError, AttributeError) as error:  # the library has all three
        raise SettingsError(
            f"“{_short(prompt)}” cannot be read: alternatives are written {{cat|dog}}, with both "
            "braces, lists __animal__, and neither $$, %{ nor __ stands elsewhere."
        ) from error
    text = " ".join(_unescaped(result.text).split())
    if not text:
        raise SettingsError(
            f"“{_short(prompt)}” can come out empty: give every alternative a word."
        )
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise SettingsError(
            f"“{_short(prompt)}” becomes longer than {MAX_PROMPT_CHARACTERS} characters."
        )
    return text


def _escaped(text: str) -> str:
    return _PLAIN.sub(lambda found: _LETTERS[found[0]], text)


def _unescaped(text: str) -> str:
    for plain, letter in _LETTERS.items():
        text = text.replace(letter, plain)
    return text


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= 80 else f"{prompt[:79]}…"
