"""A judge from the page: which are let in, from where, and what is said of them."""

from __future__ import annotations

import pytest

from studio.settings import SettingsError
from studio.ui.tabs.export import judge
from tests.support.factories import make_pair


def test_a_built_in_judge_may_pick_wherever_the_page_is_open():
    for is_local in (True, False):
        payload = judge.judge_payload("compressible", "/evil.py:run", 5, is_local)
        assert payload == {"judge": "compressible", "picks": 5}


def test_a_file_is_run_only_where_no_other_machine_is_let_in(tmp_path):
    path = tmp_path / "taste.py"
    payload = judge.judge_payload(judge.OWN, f' "{path}:calm" ', 5, True)
    assert payload == {"judge": f"{path}:calm", "picks": 5}
    with pytest.raises(SettingsError, match="no password"):
        judge.judge_payload(judge.OWN, f"{path}:calm", 5, False)
    with pytest.raises(SettingsError, match="no password"):
        judge.judge_payload(f"{path}:calm", f"{path}:calm", 5, False)


@pytest.mark.parametrize(
    ("text", "picks", "sentence"),
    [
        ("", 5, "a file and a function"),
        ("os:system", 5, "a file and a function"),
        ("/home/me/taste.py", 5, "a file and a function"),
        ("/home/me/taste.py:a b", 5, "a file and a function"),
        ("/home/me/taste.py:calm", None, "between 1 and 1000"),
        ("/home/me/taste.py:calm", 0, "between 1 and 1000"),
    ],
)
def test_what_is_no_judge_is_said(text, picks, sentence):
    with pytest.raises(SettingsError, match=sentence):
        judge.judge_payload(judge.OWN, text, picks, True)


def test_all_picks_of_a_judge_are_taken_back_at_once(store, session):
    pairs = [make_pair(store, session.id) for _ in range(5)]
    for pair, its in zip(pairs, ("calm", "calm", "busy", None), strict=False):
        store.add_answer(f"p{pair.id}", pair.id, "left", judge=its)
    store.add_answer("changed", pairs[0].id, "right")  # the artist's by now
    assert store.judged_counts(session.id) == {"calm": 1, "busy": 1}
    assert store.withdraw_judge(session.id, "calm") == 1
    assert store.withdraw_judge(session.id, "calm") == 0
    assert store.judged_counts(session.id) == {"busy": 1}
    held = {one.pair.id: one.pick.judge for one in store.picked_pairs(session.id)}
    assert held == {pairs[0].id: None, pairs[2].id: "busy", pairs[3].id: None}
    assert [pair.id for pair in store.waiting_pairs(session.id)] == [pairs[4].id]


def test_a_name_from_an_archive_is_text():
    html = judge.judged_html({"<b>'x": 2}, False)
    assert "2 picks by &lt;b&gt;&#x27;x" in html
    assert "data-name='&lt;b&gt;&#x27;x'" in html
