"""Pairs of pictures that were read from a folder: a Swiss tournament within each of its groups.

A group has one prompt and one model. Of near-duplicates only the first one takes part.
"""

from __future__ import annotations

import random
from collections import defaultdict

from studio.pictures.alike import sets_of
from studio.store import Image, Session, Store
from studio.store.rows import SOURCE_MODEL
from studio.swiss import Game, next_pairs

SCORES = {"left": 1.0, "right": 0.0}  # all other answers, of the left picture: a half


def add_folder_pairs(store: Store, session: Session, base_hash: str, missing: int) -> bool:
    """Ask about at most so many pairs more; False if there is none to ask about now.

    Only pictures that were read for this model and size take part: others cannot share a round
    with them.
    """
    pictures = [
        image
        for image in store.folder_pictures(session.id)
        if image.base_hash == base_hash
        and image.sampling.may_share_a_round_with(session.settings.sampling)
    ]
    games = [
        Game(left, right, None if choice is None else SCORES.get(choice, 0.5))
        for left, right, choice in store.folder_pairs(session.id)
    ]
    added = 0
    for group in groups_of(pictures):
        by_id = {image.id: image for image in group}
        for pair in next_pairs(list(by_id), games, missing - added):
            left, right = (by_id[id_] for id_ in pair)
            if random.Random(f"{left.id} {right.id}").random() < 0.5:
                left, right = right, left
            store.ask_about(left, right)
            added += 1
        if added >= missing:
            break
    return added > 0


def groups_of(pictures: list[Image]) -> list[list[Image]]:
    """Pictures of one prompt and one model, without the later ones of near-duplicates."""
    groups: dict[tuple[str, str], list[Image]] = defaultdict(list)
    for image in pictures:
        groups[image.prompt, image.companions.get(SOURCE_MODEL, "")].append(image)
    return [
        [image for place, image in enumerate(group) if firsts[place] == place]
        for group in groups.values()
        for firsts in [sets_of([image.look for image in group])]
    ]
