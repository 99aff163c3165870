"""Messages in the language of whoever is served."""

from __future__ import annotations

import asyncio

import pytest

from studio.messages import _, language, ngettext, speaking, together, told, wanted_language, when
from studio.messages.extraction import marked, sentences
from studio.messages.markup import messages_in, told_markup


def test_outside_of_a_page_messages_are_in_english():
    assert language() == "en"
    assert _("Round {number}", number=2) == "Round 2"
    assert ngettext("{number} pick", "{number} picks", 1) == "1 pick"
    assert ngettext("{number} pick", "{number} picks", 2) == "2 picks"
    assert told("Learning, 3 of 8 updates") == "Learning, 3 of 8 updates"


def test_within_a_page_they_are_in_its_language():
    with speaking("ja"):
        assert _("Round {number}", number=2) == "ラウンド 2"
        assert ngettext("{number} pick", "{number} picks", 2) == "選択 2 件"
    with speaking("zh-CN"):
        assert _("Round {number}", number=2) == "第 2 轮"
    assert language() == "en"


def test_two_requests_at_once_keep_their_languages():
    async def serve(code: str) -> str:
        with speaking(code):
            await asyncio.sleep(0)
            return _("Prefer")

    async def both() -> list[str]:
        return await asyncio.gather(*map(serve, ("ja", "zh-CN", "en")))

    assert asyncio.run(both()) == ["選ぶ", "挑选", "Prefer"]


@pytest.mark.parametrize(
    ("english", "japanese"),
    [
        ("Done.", "完了しました。"),
        ("Learning, 3 of 8 updates", "学習中、更新 3 / 8"),
        # Within another sentence, and several after each other.
        ("Drawing test pictures, 3 of 12, about 2 min left",
         "テスト画像を生成中、3 / 12、残り約 2 分"),
        (
            "Done. Learned without 3 of the picks: their files are missing or changed.",
            "完了しました。選択 3 件を除いて学習しました（ファイルがないか変わっています）。",
        ),
        # A phrase with a stop, and a sentence without one.
        ("Learning", "学習中"),
        # What was typed stays, though it is a message elsewhere.
        ("“Compare” was deleted. Its files are kept in the folder “aside”.",
         "「Compare」を削除しました。ファイルは「aside」フォルダーに残っています。"),
        ("A sentence of an older version.", "A sentence of an older version."),
        ("", ""),
    ],
)  # fmt: skip
def test_a_kept_sentence_is_told_in_the_language_of_the_page(english, japanese):
    with speaking("ja"):
        assert told(english) == japanese


def test_telling_twice_changes_nothing():
    with speaking("ja"):
        once = told("Stopped. The adapter from before it stays in use.")
        assert told(once) == once


def test_sentences_that_follow_each_other_have_a_space_where_the_language_has_one():
    assert together("One.", "", "Two.") == "One. Two."
    assert together("一。", "二。") == "一。二。"


@pytest.mark.parametrize(
    ("accepted", "code"),
    [
        ("ja", "ja"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"),
        ("zh-Hant-TW", "zh-CN"),
        ("de-DE,de;q=0.9,en;q=0.5,ja;q=0.7", "ja"),
        ("fr", "en"),
        ("*", "en"),
        ("ja;q=0", "en"),
        ("ja;q=none, en", "en"),
        ("", "en"),
        ("x" * 500, "en"),
    ],
)
def test_the_language_is_the_first_that_the_browser_wants(accepted, code):
    assert wanted_language(accepted) == code


def test_a_day_is_written_as_the_language_writes_it():
    noon_s = 20_000 * 86_400 + 43_200
    assert when(noon_s).startswith("4 Oct, ")
    with speaking("ja"):
        assert when(noon_s).startswith("10月4日 ")


def test_markup_keeps_its_tags():
    markup = '<p title="Close"><b data-part="x"></b> Prompt <i>{{ value }}</i></p>'
    with speaking("ja"):
        told_to = '<p title="閉じる"><b data-part="x"></b> プロンプト <i>{{ value }}</i></p>'
        assert told_markup(markup) == told_to


def test_a_text_with_keys_in_it_is_one_message_and_a_key_before_a_text_is_none():
    found = messages_in("<p><kbd>Z</kbd> Undo</p><p>Press <kbd>F</kbd> to flip.</p><kbd>Esc</kbd>")
    assert list(found) == ["Undo", "Press <kbd>F</kbd> to flip."]


def test_marks_are_found_within_f_strings_too():
    source = 'f"<b>{_(\'One\')}</b>"; ngettext("{number} a", "{number} b", 2); _(name)'
    assert set(marked(source)) == {"One", ("{number} a", "{number} b")}


def test_sentences_of_unmarked_sources_have_named_places():
    source = '''
"""Not this. A module says what it is."""
log.info("Nor is this one read.")
raise StoreError(f"{path} has {len(rows)} rows, and {other.path} has none")
text = f"Stopped after {done} of {total} updates."
sql = "SELECT nothing FROM nowhere."
'''
    assert set(sentences(source)) == {
        "{path} has {number} rows, and {path_2} has none",
        "Stopped after {done} of {total} updates.",
    }
