"""Sessions are begun ready for labelling."""

from __future__ import annotations

from studio.store import (
    Store,
)
from studio.ui.sessions import open_session
from studio.ui.starter_pack import CONCEPTS_PATH, first_settings, starter_packs


def test_a_new_home_is_ready_to_label(store: Store):
    session = open_session(store)
    assert session.settings.prompts
    assert open_session(store).id == session.id  # and there is one of it
    [job] = store.jobs(session.id)
    assert job.kind == "preview"


def test_the_starter_packs_are_ready_to_use():
    prompts = [prompt for pack in starter_packs().values() for prompt in pack]
    assert len(prompts) == len(set(prompts)) >= 40
    assert set(first_settings().prompts) < set(prompts)
    assert set(prompts) <= set(CONCEPTS_PATH.read_text(encoding="utf-8").splitlines())
