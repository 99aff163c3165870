"""What a single file predicts, from its name, its header and the file beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from studio import weights
from studio.models import ModelError
from studio.models.predictions import Told, told_by_file

FLOW, NOISE, VELOCITY = "flow_prediction", "epsilon", "v_prediction"
EDITED_BY_HAND = "# my notes\r\nmodel:\r\n  params:\r\n    parameterization: 'flow'  \r\n"


def told(
    path: Path,
    family: str = "sdxl",
    metadata: dict[str, str] | None = None,
    marks: tuple[str, ...] = (),
    yaml: str | None = None,
) -> Told:
    save_file({name: torch.zeros(1) for name in (*marks, "x")}, path, metadata)
    if yaml is not None:
        path.with_suffix(".yaml").write_text(yaml, newline="")
    return told_by_file(path, weights.read_header(path), family)


@pytest.mark.parametrize(
    ("name", "facts", "kind", "note"),
    [
        ("illustrious", {}, NOISE, ""),
        ("Noob_RectifiedFlow_v2", {}, FLOW, "By its name it is a rectified flow"),
        ("bigasp flow", {}, NOISE, "does not tell whether it is a rectified flow"),
        ("Chenkin-XL-RF-0.5", {}, NOISE, 'with the line `parameterization: "flow"`'),
        ("surf", {}, NOISE, ""),
        ("flow", {"yaml": EDITED_BY_HAND}, FLOW, ""),
        ("flow", {"metadata": {"modelspec.prediction_type": "epsilon"}}, NOISE, ""),
        ("x", {"metadata": {"modelspec.prediction_type": "Rectified Flow"}}, FLOW, ""),
        ("x", {"metadata": {"modelspec.prediction_type": "flow_matching"}}, FLOW, ""),
        ("rectified", {"yaml": "parameterization: eps"}, NOISE, ""),
        ("rectified", {"marks": ("v_pred",)}, VELOCITY, ""),
        ("x", {"marks": ("v_pred", "ztsnr")}, VELOCITY, ""),
        ("x", {"marks": ("ztsnr",)}, NOISE, ""),
        # only SDXL is known as a flow
        ("rectified flow", {"family": "sd1"}, NOISE, ""),
    ],
)
def test_what_a_file_predicts(name: str, facts: dict, kind: str, note: str, tmp_path: Path) -> None:
    found = told(tmp_path / f"{name}.safetensors", **facts)
    assert found.kind == kind
    assert note in found.note
    assert bool(note) == bool(found.note)


@pytest.mark.parametrize(
    ("family", "facts", "words"),
    [
        ("sd1", {"yaml": "parameterization: flow"}, "supported for Stable Diffusion XL only"),
        ("sd2", {"metadata": {"modelspec.prediction_type": "rf"}}, "Diffusion XL only"),
        ("sdxl", {"metadata": {"modelspec.prediction_type": "x0"}}, "predicts x0, which is not"),
    ],
)
def test_a_prediction_that_cannot_be_used_is_a_sentence(
    family: str, facts: dict, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=words):
        told(tmp_path / "x.safetensors", family, **facts)
