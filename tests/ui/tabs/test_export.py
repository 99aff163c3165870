"""The form of Export."""

from __future__ import annotations

import pytest

from studio.settings import (
    SettingsError,
)
from studio.ui.tabs.export import form


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"adapter_id": None}, "let a round learn first"),
        ({"name": "  "}, "name"),
        ({"strength": None}, "strength"),
        ({"strength": 3.0}, "A strength lies between -1 and 2"),
        ({"strength": 0}, "is not 0: that is the base model"),
        ({"formats": []}, "at least one kind"),
    ],
)
def test_what_cannot_be_exported_is_said(changes, sentence):
    good = {
        "adapter_id": "x",
        "name": " Blue ",
        "notes": "",
        "trigger": "",
        "strength": 1,
        "author": "",
        "licence": None,
        "formats": ["kohya"],
    }
    assert form.export_payload(**good)["name"] == "Blue"
    assert form.export_payload(**good | {"strength": -1})["strength"] == -1
    with pytest.raises(SettingsError, match=sentence):
        form.export_payload(**good | changes)
