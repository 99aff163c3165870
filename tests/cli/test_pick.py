"""`pick`: a judge picks from the real store as an artist would, and is known as a judge there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image as Pictures

from studio.__main__ import main
from studio.judging import answer_of
from studio.settings import SamplingSettings, SessionSettings
from studio.store import AlreadyAnswered, Question, Session, Store, examine_files
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.prefer.state import answer_value, page_state
from tests.support.factories import make_image, make_pair
from tests.support.processes import typed

JUDGE = """\
def bright(image, prompt):
    assert image.mode == "RGB"
    return image.convert("L").getpixel((0, 0))

def moody(image, prompt):
    if prompt == "a lion":
        raise RuntimeError("I am afraid of lions")
    return bright(image, prompt)
"""

Ask = Callable[..., Question]


@pytest.fixture
def judge(tmp_path: Path) -> str:
    """The path of a file with judges."""
    (tmp_path / "taste.py").write_text(JUDGE, "utf-8")
    return str(tmp_path / "taste.py")


@pytest.fixture
def ask(store: Store, session: Session) -> Ask:
    """Call it with greys, 0 to 255, to have a question with such pictures waiting."""

    def add(*greys: int, prompt: str = "a red apple") -> Question:
        pictures = [make_image(store, session.id, prompt=prompt) for _ in greys]
        for picture, grey in zip(pictures, greys, strict=True):
            path = store.image_path(picture)
            path.parent.mkdir(parents=True, exist_ok=True)
            Pictures.new("L", (8, 8), grey).save(path)
        return store.add_question(session.id, prompt, pictures, None)

    return add


def pick(store: Store, session: Session, judge: str, picks: int) -> int:
    arguments = ["--session", session.name, "--judge", judge, "--picks", str(picks)]
    return main(["pick", "--home", str(store.home), *arguments])


def choices(store: Store, session: Session) -> list[tuple[str | None, str | None]]:
    return [(one.pick.choice, one.pick.judge) for one in store.picked_pairs(session.id)]


def test_who_likes_bright_pictures_picks_the_brighter_one(store, session, ask, judge, capsys):
    for greys in ((10, 200), (250, 40), (99, 99), (0, 1)):
        ask(*greys)
    left = ask(1, 2)
    assert pick(store, session, f"{judge}:bright", 4) == 0
    assert choices(store, session) == [
        (choice, "taste.py:bright") for choice in ("right", "left", "tie", "right")
    ]
    assert [one.id for one in store.waiting(session.id)] == [left.id]
    assert capsys.readouterr().out == "4 of 4 picks by taste.py:bright\n"


def test_its_picks_make_a_round_due_as_the_artists_do(store, session, ask, judge):
    for _ in range(session.settings.round_every):
        assert store.due_session() is None
        ask(10, 200)
        assert pick(store, session, f"{judge}:bright", 1) == 0
    assert store.due_session() == session.id
    round_ = store.request_round(session.id)
    learned = {*round_.train_pick_ids, *round_.held_out_pick_ids}
    assert learned == {one.pick.id for one in store.picked_pairs(session.id)}


def test_without_a_number_it_picks_until_a_round_is_due(store, session, ask):
    for _ in range(6):
        ask(10, 200)
    given = ["--session", session.id, "--judge", "compressible"]
    assert main(["pick", "--home", str(store.home), *given]) == 0
    assert choices(store, session) == [("tie", "compressible")] * session.settings.round_every


@pytest.mark.parametrize(
    ("scores", "answer"),
    [
        ((1, 2), ("right", "")),
        ((2, 1), ("left", "")),
        ((0.0, -0.0), ("tie", "")),
        ((3, 1, 4, 2), ("ranked", "cadb")),
        ((3, 1, 4, 1), ("ranked", "ca")),
        ((3, 1, 3, 4), ("ranked", "d")),
        ((4, 1, 4, 2), ("skip", "")),
        ((5, 5, 5, 5), ("tie", "")),
    ],
)
def test_the_answer_says_no_more_than_the_scores(scores, answer):
    choice, ranking = answer_of(dict(zip("abcd", scores, strict=False)))
    assert (choice, "".join(ranking)) == answer


def test_a_grid_is_ranked(store, session, ask, judge):
    asked = ask(30, 10, 40, 10)
    assert pick(store, session, f"{judge}:bright", 1) == 0
    [answer] = store.recent_answers(session.id)
    assert answer.ranking == (asked.images[2].id, asked.images[0].id)
    assert {one.pick.judge for one in answer.picked} == {"taste.py:bright"}


def test_a_judge_that_fails_stops_and_all_before_is_kept(store, session, ask, judge, capsys):
    ask(10, 200)
    lion = ask(10, 200, prompt="a lion")
    assert pick(store, session, f"{judge}:moody", 2) == 1
    said = capsys.readouterr()
    assert "at a picture of “a lion”: RuntimeError: I am afraid of lions." in said.err
    assert said.out == "1 of 2 picks by taste.py:moody\n"
    assert choices(store, session) == [("right", "taste.py:moody")]
    assert [one.id for one in store.waiting(session.id)] == [lion.id]


def test_a_picture_that_is_gone_is_a_sentence(store, session, ask, capsys):
    store.image_path(ask(10, 200).images[1]).unlink()
    assert pick(store, session, "compressible", 1) == 1
    said = capsys.readouterr().err
    assert "A picture of “a red apple” cannot be read" in said
    assert "Traceback" not in said
    assert len(examine_files(store).missing)


def test_a_judge_that_does_not_exist_is_a_sentence(store, session, judge, capsys):
    assert pick(store, session, f"{judge}:nobody", 1) == 1
    assert "has no function nobody" in capsys.readouterr().err


def test_without_prompts_there_is_nothing_to_wait_for(store, capsys):
    session = store.create_session("Empty", SessionSettings())
    assert pick(store, session, "compressible", 1) == 1
    assert "Empty has no prompts" in capsys.readouterr().err


def test_it_waits_for_what_the_worker_draws(store, tiny_model):
    """The command's own worker, for a session that is not the open one."""
    quick = SamplingSettings(steps=1, width_px=64, height_px=64)
    settings = SessionSettings(
        base_model=str(tiny_model), prompts=("a cat",), sampling=quick, live=False, queue_target=1
    )
    session = store.create_session("Mine", settings)
    store.set_last_session(store.create_session("Open", SessionSettings()).id)
    given = ["--session", session.id, "--judge", "incompressible", "--picks", 3]
    run = typed("pick", "--home", store.home, *given)
    assert (run.returncode, run.stdout) == (0, "3 of 3 picks by incompressible\n"), run.stderr
    assert [judge for _, judge in choices(store, session)] == ["incompressible"] * 3


def test_a_model_that_is_gone_ends_the_wait(store, tmp_path):
    settings = SessionSettings(base_model=str(tmp_path / "gone"), prompts=("a cat",))
    session = store.create_session("Mine", settings)
    run = typed("pick", "--home", store.home, "--session", session.id, "--judge", "compressible")
    assert run.returncode == 1
    assert f"There is no model at {tmp_path / 'gone'}" in run.stderr


# --- in the store and on the page ----------------------------------------------------------------


def test_a_judge_never_replaces_an_answer_and_the_artist_may(store, session):
    pair = make_pair(store, session.id)
    store.add_answer("judge", pair.id, "left", judge="calm")
    with pytest.raises(AlreadyAnswered):
        store.add_answer("again", pair.id, "right", judge="calm")
    assert store.add_answer("judge", pair.id, "left", judge="calm").answer.id == "judge"
    kept = store.add_answer("mine", pair.id, "left")
    assert (kept.replaced.pick.judge, kept.answer.pick.judge) == ("calm", None)
    with pytest.raises(AlreadyAnswered):
        store.add_answer("again", pair.id, "right", judge="calm")
    store.undo_pick("undo", session.id)
    assert store.add_answer("again", pair.id, "right", judge="calm").replaced is None


def test_the_page_is_told_whose_pick_it_is(store, session):
    store.set_last_session(session.id)
    mine, its = (make_pair(store, session.id).id for _ in range(2))
    store.add_answer("mine", mine, "left")
    store.add_answer("its", its, "tie", judge="calm")
    newest, before = store.recent_answers(session.id)
    assert [answer_value(one)["judge"] for one in (newest, before)] == ["calm", None]
    assert page_state(StoreSnapshot(store))["counts"]["total"] == 2
