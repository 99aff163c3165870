"""What the gallery says of pictures, and the filters that it accepts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studio.settings import SamplingSettings
from studio.store import DeletedPictures, GalleryFilter, GalleryPicture
from studio.ui.tabs.gallery.state import (
    about,
    deleted_words,
    erasing_words,
    filter_of,
    page_value,
)
from tests.support.factories import make_adapter, make_image, pick

EVERYTHING = {"prompt": "", "round": "", "verdict": "", "favourites": False, "deleted": False}


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, GalleryFilter()),
        ({"round": "base"}, GalleryFilter(adapter_id=None)),
        ({"round": "a1", "prompt": "a fox"}, GalleryFilter(adapter_id="a1", prompt="a fox")),
        (
            {"verdict": "chosen", "favourites": True},
            GalleryFilter(favourites=True, verdict="chosen"),
        ),
        ({"verdict": "anything else"}, GalleryFilter()),
        ({"deleted": True}, GalleryFilter(deleted=True)),
    ],
)
def test_filters_of_the_browser(asked, wanted):
    assert filter_of({"filter": EVERYTHING | asked}) == wanted


def test_who_drew_it_and_how(store, session, add_pairs):
    pick(store, add_pairs(4))
    round_ = store.request_round(session.id)
    store.claim_round()
    adapter = make_adapter(session.id, round_)
    store.keep_adapter(round_.id, adapter)  # its test pictures are drawn while it is open
    image = make_image(store, session.id, sampling=SamplingSettings(width_px=512, height_px=768))
    tuned = replace(image, adapter_id=adapter.id, strength=0.8, purpose="compare")
    mixed = replace(image, companions={"Mix": "<lora:Blue round 1:0.5> <lora:film:-1>"})
    other = store.create_session("Another that is open", session.settings)
    store.set_last_session(other.id)
    shown = page_value(store, [GalleryPicture(one, None) for one in (image, tuned, mixed)])
    assert [one["about"] for one in shown["pictures"]] == [
        "Base model · seed 7 · 512 × 768",
        "Round 1 at 0.8 · seed 7 · 512 × 768 · Compare",
        "Base model with Blue round 1 at 0.5, film at -1 · seed 7 · 512 × 768",
    ]
    assert about(tuned, {}).startswith("Round ? at 0.8")


def test_what_deleting_means():
    assert deleted_words(1) == "1 picture deleted. Its picks are kept, and still learned from."
    assert deleted_words(3) == "3 pictures deleted. Their picks are kept, and still learned from."


@pytest.mark.parametrize(
    ("unused", "used", "said"),
    [
        (0, {}, ""),
        (1, {}, "1 picture leaves the disk for good (1.5 MB)."),
        (
            2,
            {"a pick": 1, "an exam": 3},
            "2 pictures leave the disk for good (1.5 MB). 1 stays in here, because a pick needs "
            "it. 3 stay in here, because an exam needs them.",
        ),
        (0, {"a star": 2}, "2 pictures stay in here, because a star needs them."),
    ],
)
def test_what_erasing_means(store, session, unused, used, said):
    images = tuple(make_image(store, session.id) for _ in range(unused))
    assert erasing_words(DeletedPictures(images, used), 1_500_000) == said
