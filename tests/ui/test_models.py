"""What the Prompt tab makes of the model: sizes that fit it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from studio.settings import SamplingSettings
from studio.store import KnownModel, Store
from studio.ui.tabs.prompt.sizes import shape_chips, shapes

MODEL = KnownModel("/models/one", "one", "sd1", "Stable Diffusion 1", 512, 10, 20)


@pytest.mark.parametrize(
    ("family", "size_px", "some", "count"),
    [
        ("sd1", 512, {(512, 512), (512, 640), (768, 512)}, 5),
        ("sd2", 768, {(768, 768), (768, 960), (1152, 768)}, 5),
        ("sdxl", 1024, {(1024, 1024), (896, 1152), (1152, 896), (832, 1216), (1536, 640)}, 9),
    ],
)
def test_sizes_fit_the_family(family, size_px, some, count):
    found = shapes("/models/one", replace(MODEL, family=family, size_px=size_px))
    assert found[0] == (size_px, size_px)
    assert some <= set(found)
    assert len(set(found)) == len(found) == count
    for width_px, height_px in found:
        SamplingSettings(width_px=width_px, height_px=height_px)
        assert 0.5 < width_px * height_px / size_px**2 < 1.6


def test_the_starter_has_its_own_size_and_an_unknown_model_none():
    assert shapes("starter", None) == [(64, 64)]
    assert shapes("/models/one", None) == []
    assert shapes("/models/one", replace(MODEL, family="")) == []


def test_the_size_in_use_is_marked():
    sampling = SamplingSettings(width_px=512, height_px=768)
    chips = shape_chips("/models/one", replace(MODEL, name="<b>"), sampling)
    assert re.findall(r"data-shape='(\w+)' aria-pressed='true'", chips) == ["512x768"]
    assert "&lt;b&gt;" in chips


def test_a_model_that_is_looked_at_again_keeps_its_hash_if_its_weights_are_the_same(store: Store):
    store.remember_model(replace(MODEL, base_hash="abc"))
    store.remember_model(replace(MODEL, name="other"))
    assert store.known_model("/models/one") == replace(MODEL, name="other", base_hash="abc")
    store.remember_model(replace(MODEL, mtime_ns=21))
    assert store.known_model("/models/one") == replace(MODEL, mtime_ns=21)
    assert store.known_model("/models/two") is None
