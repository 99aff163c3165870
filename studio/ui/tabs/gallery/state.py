"""The pictures of the gallery, and what it says of them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from studio.messages import N_, _, ngettext, together, told
from studio.pictures.infotext import loras_in
from studio.store import DeletedPictures, GalleryFilter, GalleryPicture, Store, StoreError
from studio.store.gallery import PAGE
from studio.store.rows import MIX, Image, Verdict
from studio.ui import words
from studio.ui.images import image_url, source_of, thumbnail_url
from studio.ui.snapshot import StoreSnapshot

BASE = "base"  # stands for the base model where an adapter is named
# What the store says that a picture is used by.
USES = (N_("a pick"), N_("a star"), N_("an exam"), N_("the strip of rounds"))
PURPOSES = {"preview": N_("strip of rounds"), "compare": N_("Compare"), "exam": N_("Exam")}


def page_state(snapshot: StoreSnapshot) -> dict[str, Any]:
    """The value of the component; `newest` changes with every picture that is drawn."""
    return {
        "session_id": snapshot.session.id,
        "newest": snapshot.store.newest_image_seq(snapshot.session.id),
    }


def filter_of(payload: dict[str, Any]) -> GalleryFilter:
    """The filter that the browser asks for."""
    asked = payload["filter"]
    changes: dict[str, Any] = {}
    if asked["round"]:
        changes["adapter_id"] = None if asked["round"] == BASE else asked["round"]
    return GalleryFilter(
        prompt=asked["prompt"] or None,
        favourites=bool(asked["favourites"]),
        verdict=asked["verdict"] if asked["verdict"] in get_args(Verdict) else None,
        deleted=bool(asked["deleted"]),
        **changes,
    )


def index_value(snapshot: StoreSnapshot, session_id: str, wanted: GalleryFilter) -> dict[str, Any]:
    index = snapshot.store.gallery_index(session_id, wanted)
    return {
        "page": PAGE,
        "total": index.total,
        "starts": index.starts,
        "prompts": snapshot.store.gallery_prompts(session_id),
        "rounds": [
            {"id": adapter.id, "name": _("Round {number}", number=adapter.number)}
            for adapter in sorted(snapshot.store.adapters(session_id), key=lambda a: -a.number)
        ],
        "deleted": snapshot.store.deleted_count(session_id),
    }


def page_value(store: Store, found: Sequence[GalleryPicture]) -> dict[str, Any]:
    numbers = round_numbers(store, [one.image for one in found])
    return {
        "pictures": [
            {
                "id": one.image.id,
                "url": image_url(one.image.id),
                "thumbnail": thumbnail_url(one.image.id),
                "prompt": one.image.prompt,
                "about": about(one.image, numbers),
                "favourite": one.image.favourite,
                "verdict": one.verdict,
            }
            for one in found
        ]
    }


def round_numbers(store: Store, images: Sequence[Image]) -> dict[str | None, int]:
    """The numbers of the rounds that drew these pictures by the ids of their adapters: also of a
    round whose test pictures are being drawn."""
    found: dict[str | None, int] = {}
    for adapter_id in {image.adapter_id for image in images} - {None}:
        with contextlib.suppress(StoreError):  # its row is damaged
            found[adapter_id] = store.adapter(adapter_id).number
    return found


def about(image: Image, numbers: Mapping[str | None, int]) -> str:
    """`Round 2 at 0.8 · seed 7 · 512 × 512 · Compare`."""
    drawn_by = source_of(image) or _("Base model")
    if image.adapter_id is not None:
        drawn_by = _("Round {number}", number=numbers.get(image.adapter_id, "?"))
        drawn_by = words.at_strength(drawn_by, image.strength)
    elif mixed := loras_in(image.companions.get(MIX, "")):
        listed = ", ".join(
            words.at_strength(name, strength, always=True) for name, strength in mixed
        )
        drawn_by = _("Base model with {loras}", loras=listed)
    seed = "" if image.is_own else _("seed {seed}", seed=image.seed)
    size = f"{image.sampling.width_px} × {image.sampling.height_px}"
    parts = [drawn_by, seed, size, _purpose(image)]
    return " · ".join(filter(None, parts))


def _purpose(image: Image) -> str:
    return _(PURPOSES[image.purpose]) if image.purpose in PURPOSES else ""


def deleted_words(number: int) -> str:
    """What deleting so many pictures means."""
    return ngettext(
        "{number} picture deleted. Its picks are kept, and still learned from.",
        "{number} pictures deleted. Their picks are kept, and still learned from.",
        number,
    )


def erasable(store: Store, session_id: str) -> dict[str, Any]:
    """The ids of the pictures that can be erased, and the question before it is done."""
    found = store.deleted_pictures(session_id)
    ids = [image.id for image in found.unused]
    return {"image_ids": ids, "text": erasing_words(found, _bytes(store, found.unused))}


def erasing_words(found: DeletedPictures, size_bytes: int) -> str:
    """`3 pictures leave the disk for good (1.2 MB). 2 stay, because a pick uses them.`"""
    parts = []
    if found.unused:
        parts.append(
            ngettext(
                "{number} picture leaves the disk for good ({size}).",
                "{number} pictures leave the disk for good ({size}).",
                len(found.unused),
                size=f"{max(size_bytes / 1e6, 0.1):.1f} MB",
            )
        )
    for use, number in found.used.items():
        parts.append(
            ngettext(
                "{number} stays in here, because {use} needs it.",
                "{number} stay in here, because {use} needs them.",
                number,
                use=told(use),
            )
            if found.unused
            else ngettext(
                "{number} picture stays in here, because {use} needs it.",
                "{number} pictures stay in here, because {use} needs them.",
                number,
                use=told(use),
            )
        )
    return together(*parts)


def _bytes(store: Store, pictures: Sequence[Image]) -> int:
    """Of their files, as far as they exist."""
    total = 0
    for image in pictures:
        paths = {
            store.image_path(image),
            store.display_path(image),
            store.trajectory_path(image),
        }
        total += sum(path.stat().st_size for path in paths if path.is_file())
    return total
