"""Prompts that the starter model can draw, for a new session."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from studio.messages import N_
from studio.settings import SessionSettings

CONCEPTS_PATH = Path(__file__).parent.parent / "starter" / "concepts.txt"
TO_BEGIN_WITH = N_("To begin with")  # the theme of the prompts of a new session
# The other themes of the file.
THEMES = (N_("Animals"), N_("Food"), N_("Plants and sky"), N_("Things"))


@cache
def starter_packs() -> dict[str, tuple[str, ...]]:
    """Prompts by theme."""
    packs: dict[str, list[str]] = {TO_BEGIN_WITH: []}
    text = Path(__file__).with_name("starter_pack.txt").read_text(encoding="utf-8")
    for line in filter(None, text.splitlines()):
        if line.startswith("# "):
            packs[line.removeprefix("# ")] = []
        else:
            packs[list(packs)[-1]].append(line)
    return {theme: tuple(prompts) for theme, prompts in packs.items()}


@cache
def starter_concepts() -> tuple[str, ...]:
    """Everything the starter model can draw. Any larger model can draw it too."""
    lines = CONCEPTS_PATH.read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def first_settings() -> SessionSettings:
    """Settings of a new session: labelling can begin at once."""
    return SessionSettings(prompts=starter_packs()[TO_BEGIN_WITH])
