"""Prompts to begin with: things the starter model can draw."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from studio.settings import SessionSettings

CONCEPTS_PATH = Path(__file__).parent.parent / "starter" / "concepts.txt"
FIRST = 12  # prompts of a new session; the others are offered beside the list


@cache
def starter_pack() -> tuple[str, ...]:
    """All prompts of the pack, in order."""
    lines = Path(__file__).with_name("starter_pack.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


@cache
def starter_concepts() -> tuple[str, ...]:
    """All things that the starter model can draw; any larger model can draw them too."""
    lines = CONCEPTS_PATH.read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def first_settings() -> SessionSettings:
    """Settings with which an artist can label at once."""
    return SessionSettings(prompts=starter_pack()[:FIRST])
