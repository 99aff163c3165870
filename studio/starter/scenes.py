"""What a picture shows before it is drawn: which objects, where they stand, and words for it."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from itertools import product

import torch

from studio.starter.data import GROUNDS, Drawings, compose
from studio.starter.recipe import Recipe

# Drawings are moved about in whole latents, so that moving one moves its code and does not change
# it.
LATENT_PX = 4

# Where the objects of a scene stand: squares that never overlap, as top, left and side in shares of
# the picture. "left" is the first object to the left of the second, "smaller" is the first one too.
CELLS = {
    "left": ((1 / 4, 0, 1 / 2), (1 / 4, 1 / 2, 1 / 2)),
    "above": ((0, 1 / 4, 1 / 2), (1 / 2, 1 / 4, 1 / 2)),
    "smaller": ((3 / 8, 0, 3 / 8), (3 / 16, 3 / 8, 5 / 8)),
    "two": ((1 / 4, 0, 1 / 2), (1 / 4, 1 / 2, 1 / 2)),
    "three": ((0, 1 / 4, 1 / 2), (1 / 2, 0, 1 / 2), (1 / 2, 1 / 2, 1 / 2)),
}
OBJECTS = {"alone": 1, "left": 2, "above": 2, "smaller": 2, "two": 1, "three": 1}  # different ones

# {a} and {b} are the objects with their articles, {0} and {1} without, {many} the first as plural.
SENTENCES = {
    "left": (
        "{a} to the left of {b}",
        "{b} to the right of {a}",
        "{a} on the left and {b} on the right",
    ),
    "above": ("{a} above {b}", "{b} below {a}", "{a} over {b}"),
    "smaller": (
        "a small {0} and a large {1}",
        "a large {1} and a small {0}",
        "{a} smaller than {b}",
    ),
    "two": ("two {many}",),
    "three": ("three {many}",),
}
# A list of words, a sentence, and something between the two.
STYLE_FORMS = (", {} style", " in {} style", " in {} style")
GROUND_FORMS = (", {} background", " on a {} background", " on {}")


Combinations = frozenset[tuple[str, str, str]]  # of object, style and ground


@dataclass(frozen=True)
class Scene:
    """One object alone, or a relation (a key of `CELLS`) and the objects it is between."""

    relation: str
    objects: tuple[str, ...]
    style: str
    ground: str


# --- where ---------------------------------------------------------------------------------------


def cells(relation: str, size_px: int) -> list[tuple[int, int, int]]:
    """Top, left and side in pixels of the squares in which the objects of a relation stand."""
    return [tuple(int(size_px * share) for share in cell) for cell in CELLS[relation]]


def boxes(relation: str, recipe: Recipe, draw: random.Random) -> list[tuple[int, int, int]]:
    """Top, left and side in pixels of each drawing: a little smaller than its cell, anywhere in it.

    An object alone stands in the middle.
    """
    if relation == "alone":
        margin = (recipe.size_px - recipe.drawing_px) // 2
        return [(margin, margin, recipe.drawing_px)]
    placed = []
    for top, left, side in cells(relation, recipe.size_px):
        free = draw.randint(1, 2)
        down, right = draw.randint(0, free), draw.randint(0, free)
        placed.append((top + down * LATENT_PX, left + right * LATENT_PX, side - free * LATENT_PX))
    return placed


# --- which ---------------------------------------------------------------------------------------


def held_out(recipe: Recipe, drawings: Drawings) -> Combinations:
    """The combinations of object, style and ground that training never draws.

    As many of every object; fewer than there are styles or grounds, so that each object is seen in
    every style and on every ground.
    """
    each = list(product(drawings.styles, GROUNDS))
    count = round(recipe.held_out * len(each))
    return frozenset(
        (concept, *combination)
        for concept in drawings.concepts
        for combination in random.Random(f"held out: {concept}").sample(each, count)
    )


def draw_scene(
    relation: str,
    drawings: Drawings,
    unseen: Combinations,
    draw: random.Random,
) -> Scene:
    """Any objects in that relation, in any style and on any ground that training may show."""
    while True:
        objects = tuple(draw.sample(drawings.concepts, OBJECTS[relation]))
        scene = Scene(relation, objects, draw.choice(drawings.styles), draw.choice(list(GROUNDS)))
        if not {(concept, scene.style, scene.ground) for concept in objects} & unseen:
            return scene


def draw_scenes(
    recipe: Recipe,
    drawings: Drawings,
    unseen: Combinations,
    size: int,
    draw: random.Random,
) -> list[Scene]:
    """So many single objects and scenes as the recipe mixes them."""
    relations = [
        draw.choice(list(CELLS)) if draw.random() < recipe.scenes else "alone" for _ in range(size)
    ]
    return [draw_scene(relation, drawings, unseen, draw) for relation in relations]


# --- in words ------------------------------------------------------------------------------------


@functools.cache
def _english():
    import inflect

    return inflect.engine()


@functools.cache
def _with_article(noun: str) -> str:
    return _english().a(noun)


@functools.cache
def _plural(noun: str) -> str:
    plural = _english().plural_noun(noun)
    return noun if plural.endswith("ss") else plural  # jeans and glasses are many already


def caption(concept: str, style: str | None, ground: str | None, form: int = 0) -> str:
    """A prompt's words: "octopus, ink style, blue background"; style and ground may be None."""
    text = concept
    if style:
        text += STYLE_FORMS[form].format(style)
    if ground:
        text += GROUND_FORMS[form].format(ground)
    return text


def subject(scene: Scene, wording: int = 0) -> str:
    """What a scene shows, in the first of the sentences for it or another."""
    if scene.relation == "alone":
        return scene.objects[0]
    return SENTENCES[scene.relation][wording].format(
        *scene.objects,
        a=_with_article(scene.objects[0]),
        b=_with_article(scene.objects[-1]),
        many=_plural(scene.objects[0]),
    )


def words_for(
    scene: Scene,
    recipe: Recipe,
    keywords: dict[str, tuple[str, ...]],
    style: bool,
    ground: bool,
    draw: random.Random,
) -> str:
    """A caption in one of the wordings that the recipe trains on; style and ground named or not.

    With keywords, an object alone may have one or two after its name, or two instead of it, so that
    words are learned that several objects share.
    """
    form = draw.randrange(3 if recipe.keywords else 2)
    if scene.relation != "alone":
        what = subject(scene, draw.randrange(len(SENTENCES[scene.relation])))
    else:
        what = _with_article(scene.objects[0]) if form == 1 else scene.objects[0]
    further = ""
    if recipe.keywords and scene.relation == "alone" and draw.random() < 0.4:
        known = keywords[scene.objects[0]]
        some = draw.sample(known, min(len(known), draw.randint(1, 2)))
        if len(some) == 2 and draw.random() < 0.5:
            what = " ".join(some)
        else:
            further = "".join(f", {word}" for word in some)
    named = caption(what, scene.style if style else None, scene.ground if ground else None, form)
    return named + further


# --- drawn ---------------------------------------------------------------------------------------


def drawn(
    drawings: Drawings,
    scenes: list[Scene],
    placed: list[list[tuple[int, int, int]]],
    ground_rgb: torch.Tensor,
    size_px: int,
) -> torch.Tensor:
    """(B, 3, size_px, size_px) in -1..1, on the drawings' device.

    placed: of each scene, the boxes of its objects; a single object stands in all of them.
    """
    rows = {concept: row for row, concept in enumerate(drawings.concepts)}
    most = max(len(each) for each in placed)
    nowhere = (size_px, size_px, 1)
    standing = [each.objects + each.objects[-1:] * (most - len(each.objects)) for each in scenes]
    concepts = torch.tensor([[rows[concept] for concept in each] for each in standing])
    styles = torch.tensor([[drawings.styles.index(scene.style)] for scene in scenes])
    boxes_px = torch.tensor([[*each, *[nowhere] * (most - len(each))] for each in placed])
    device = drawings.rgba.device
    rgba = drawings.rgba[concepts.to(device), styles.to(device)]
    return compose(rgba, boxes_px.to(device), ground_rgb.to(device), size_px)


def palette(scenes: list[Scene]) -> torch.Tensor:
    """(B, 3) the colours of their grounds."""
    return torch.tensor([GROUNDS[scene.ground] for scene in scenes])
