"""The language of a page: which one it is, and that all that is served of it is in it."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from studio.messages import speaking
from studio.store import Store
from studio.ui.app import pages
from studio.ui.languages import asked_language


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "en"),
        ({"accept-language": "ja,en;q=0.5"}, "ja"),
        ({"accept-language": "ja", "cookie": "a=b; studio-language=zh-CN; c=d"}, "zh-CN"),
        # The page was opened in English, and the browser's choice was changed since.
        ({"studio-language": "en", "cookie": "studio-language=ja"}, "en"),
        ({"studio-language": "xx", "cookie": "studio-language=yy"}, "en"),
    ],
)
def test_a_page_keeps_its_language_before_what_was_chosen_and_what_the_browser_wants(headers, code):
    assert asked_language(Headers(headers)) == code


def test_components_are_told_in_the_language_of_who_asks_and_what_is_in_fields_is_not(store: Store):
    demo = pages(store)

    def props(elem_id: str) -> dict:
        found = (one["props"] for one in demo.config["components"])
        return next(one for one in found if one.get("elem_id") == elem_id)

    english = props("grid-strengths")
    assert english["label"] == "Strengths"
    with speaking("ja"):
        japanese = props("grid-strengths")
        assert japanese["label"] == "強度"
        assert japanese["value"] == english["value"] == "0, 0.5, 1"
        assert props("round-start")["value"] == "ラウンドを始める"
        [gentle] = [name for name, value in props("strength")["choices"] if value == "Gentle"]
        assert gentle == "穏やか"
        assert "構図" in props("prefer")["html_template"]
    assert props("round-start")["value"] == "Start a round"
