"""The table of families: which entry a model has, and that both processes can read it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from studio.families import FAMILIES, family_of, key_of

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("name", "prediction_type", "key", "size_px"),
    [
        ("sd1", "epsilon", "sd1", 512),
        ("sd1", "v_prediction", "sd1", 512),
        ("sd2", "epsilon", "sd2", 512),
        ("sd2", "v_prediction", "sd2_v", 768),
        ("sdxl", "epsilon", "sdxl", 1024),
        ("sdxl", "v_prediction", "sdxl", 1024),
        ("sdxl", "flow_prediction", "sdxl_rf", 1024),
        ("flux2_klein_4b", "flow_prediction", "flux2_klein_4b", 1024),
        ("flux2_klein_9b", "flow_prediction", "flux2_klein_9b", 1024),
    ],
)
def test_the_entry_is_found_by_architecture_and_prediction(name, prediction_type, key, size_px):
    assert key_of(name, prediction_type) == key
    assert family_of(name, prediction_type) is FAMILIES[key]
    assert (FAMILIES[key].name, FAMILIES[key].size_px) == (name, size_px)


def test_an_unknown_family_is_an_error():
    with pytest.raises(KeyError):
        family_of("sd9")
    with pytest.raises(KeyError):
        family_of("sd1", "flow_prediction")


def test_a_rectified_flow_has_the_lora_names_of_its_network():
    assert FAMILIES["sdxl_rf"].lora == FAMILIES["sdxl"].lora


def test_no_two_families_look_alike():
    """A single file is known by its last text encoder, a folder by pipeline and projection; a
    transformer by its blocks.
    """
    unets = [family for family in FAMILIES.values() if family.transformer is None]
    files = {family.name: family.text_encoders[-1].prefix for family in unets}
    folders = {f.name: (f.pipeline, f.linear_projection) for f in unets}
    assert len(set(files.values())) == len(set(folders.values())) == len(files) == 3
    blocks = [(f.pipeline, f.transformer) for f in FAMILIES.values() if f not in unets]
    assert len(set(blocks)) == len(blocks)


def test_the_table_needs_no_library():
    script = "import studio.families, sys; print(*sys.modules, sep=chr(10))"
    run = subprocess.run(
        [sys.executable, "-S", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {name.partition(".")[0] for name in run.stdout.split()} & {"torch", "diffusers"}
