"""The pictures of a session, page by page."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.settings import SessionSettings
from studio.store import GalleryFilter, Image, Session, Store
from studio.store.gallery import PAGE
from studio.store.schema import images
from tests.support.factories import QUESTIONS, finish, make_grid, make_image, make_pair, pick

PROMPTS = ("a fox", "a hen", "an owl")


def everything(store: Store, session: Session, **wanted: object) -> list[tuple[str, str | None]]:
    """(id, verdict) of all pictures of a filter, read page by page."""
    chosen = GalleryFilter(**wanted)
    index = store.gallery_index(session.id, chosen)
    found = []
    for start, before in pairwise((*index.starts, 0)):
        page = store.gallery_page(session.id, chosen, start, before)
        assert 0 < len(page) <= PAGE
        found += [(one.image.id, one.verdict) for one in page]
    assert index.total == len(found)
    return found


def ids(found: list[tuple[str, str | None]]) -> set[str]:
    return {id_ for id_, _ in found}


def add_many(store: Store, session: Session, number: int, **changes: object) -> list[Image]:
    """Pictures that nobody asks about, in one transaction."""
    made = [
        make_image(store, session.id, prompt=PROMPTS[n % 3], purpose="compare", **changes)
        for n in range(number)
    ]
    with store.writing() as connection:
        connection.execute(sa.insert(images), [vars(one) for one in made])
    return made


def test_pages_are_newest_first_and_whole(store, session):
    made = add_many(store, session, 2 * PAGE + 7)
    other = store.create_session("Other", SessionSettings())
    add_many(store, other, 3)
    assert [id_ for id_, _ in everything(store, session)] == [one.id for one in reversed(made)]
    assert everything(store, store.create_session("None", SessionSettings())) == []


def test_what_is_drawn_meanwhile_moves_no_page(store, session):
    add_many(store, session, 3 * PAGE)
    every = GalleryFilter()
    starts = store.gallery_index(session.id, every).starts
    before = [store.gallery_page(session.id, every, start) for start in starts]
    newest = store.newest_image_seq(session.id)
    add_many(store, session, 5)
    assert [store.gallery_page(session.id, every, start) for start in starts] == before
    assert store.newest_image_seq(session.id) == newest + 5


def test_prompts_are_found_in_order_and_only_so_many(store, session):
    add_many(store, session, 10)
    assert store.gallery_prompts(session.id) == sorted(PROMPTS)
    assert store.gallery_prompts(session.id, limit=2) == sorted(PROMPTS)[:2]


def test_filters(store, session, add_pairs):
    early = add_pairs(4)
    pick(store, early)
    _, adapter = finish(store, session.id, store.request_round(session.id))
    late = make_pair(store, session.id, prompt="a late one", adapter_id=adapter.id)
    store.set_favourite(late.left.id, True)
    first = {image.id for pair in early for image in (pair.left, pair.right)}
    both = {late.left.id, late.right.id}
    assert ids(everything(store, session, adapter_id=None)) == first
    assert ids(everything(store, session, adapter_id=adapter.id)) == both
    assert ids(everything(store, session, prompt="a late one")) == both
    assert ids(everything(store, session, favourites=True)) == {late.left.id}
    assert ids(everything(store, session, verdict="chosen")) == {pair.left.id for pair in early}
    assert ids(everything(store, session, verdict="undecided", prompt="a late one")) == both
    store.delete_images(session.id, [late.left.id])
    assert ids(everything(store, session, favourites=True)) == set()
    assert everything(store, session, deleted=True) == [(late.left.id, "undecided")]


def test_a_mix_is_not_of_the_base_model_alone(store, session):
    base, mixed = (
        store.add_image(make_image(store, session.id, purpose="compare", companions=companions))
        for companions in ({"VAE": 'my "Mix": vae'}, {"Mix": "<lora:warm:0.5>"})
    )
    assert ids(everything(store, session, adapter_id=None)) == {base.id}
    assert ids(everything(store, session)) == {base.id, mixed.id}


def test_the_pictures_of_an_open_exam_are_a_secret(store, session, add_pairs):
    pick(store, add_pairs(4))
    _, adapter = finish(store, session.id, store.request_round(session.id))
    exam = store.add_exam(session.id, adapter.id, 1.0, QUESTIONS[:2])
    for pair in exam.pairs:
        two = [store.add_image(make_image(store, session.id, purpose="exam")) for _ in range(2)]
        assert {one.id for one in two}.isdisjoint(ids(everything(store, session)))  # half a pair
        store.set_exam_pictures(pair.id, two[0].id, two[1].id)
    drawn = {side for pair in store.exam(exam.id).pairs for side in pair.sides}
    assert drawn.isdisjoint(ids(everything(store, session)))
    store.answer_exam("a", exam.pairs[0].id, "left")
    store.answer_exam("b", exam.pairs[1].id, "tie")
    assert drawn <= ids(everything(store, session))
    again = store.add_exam(session.id, adapter.id, 1.0, QUESTIONS[2:])
    store.set_exam_pictures(again.pairs[0].id, *exam_sides(store, exam))
    assert len(drawn & ids(everything(store, session))) == 2  # those that are asked again are not
    store.leave_exam(again.id)
    assert drawn <= ids(everything(store, session))


def exam_sides(store, exam):
    pair = store.exam(exam.id).pairs[0]
    return pair.base_image_id, pair.tuned_image_id


def expected_verdicts(store: Store, session: Session, asked: list[Image]) -> dict[str, str]:
    """By the definition, from the picks."""
    won, lost = set(), set()
    for one in store.picked_pairs(session.id):
        if one.pick.choice in ("left", "right"):
            won.add(one.chosen.id)
            lost.add(one.rejected.id)
        elif one.pick.choice == "both_bad":
            lost |= {image.id for image in one.images}
    return {
        image.id: "passed_over"
        if image.id in lost
        else "chosen"
        if image.id in won
        else "undecided"
        for image in asked
    }


answers = st.lists(
    st.tuples(
        st.integers(0, 5), st.sampled_from(["left", "right", "tie", "both_bad", "skip", "undo"])
    ),
    max_size=12,
)


@settings(max_examples=25)
@given(answers, st.permutations(range(4)))
def test_verdicts_are_those_of_the_picks_that_hold(answers, order):
    with TemporaryDirectory() as folder:
        store = Store.open(Path(folder))
        session = store.create_session("Picked", SessionSettings())
        pairs = [make_pair(store, session.id) for _ in range(6)]
        grid = make_grid(store, session.id)
        asked = [image for pair in pairs for image in (pair.left, pair.right)] + [*grid.images]
        for number, (place, choice) in enumerate(answers):
            if choice == "undo":
                store.undo_pick(f"u{number}", session.id)
            else:
                store.add_answer(f"p{number}", pairs[place].id, choice)
        ranking = [grid.images[place].id for place in order[:2]]
        store.add_answer("grid", grid.id, "ranked", ranking=ranking)
        expected = expected_verdicts(store, session, asked)
        assert dict(everything(store, session)) == expected
        for verdict in ("chosen", "passed_over", "undecided"):
            found = everything(store, session, verdict=verdict)
            assert dict(found) == {id_: said for id_, said in expected.items() if said == verdict}
        store.close()


# --- with ten thousand of them -------------------------------------------------------------------

STEPS = 50  # of SQLite's machine, between two calls of the counter


@contextmanager
def counted(store: Store) -> Iterator[dict[str, int]]:
    """Counts the statements, and the steps that SQLite's machine makes for them."""
    count = {"statements": 0, "steps": 0}

    def step() -> int:
        count["steps"] += 1
        return 0

    def connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.set_progress_handler(step, STEPS)

    def execute(*_: object) -> None:
        count["statements"] += 1

    store.close()  # the connections are made anew
    sa.event.listen(sa.Pool, "connect", connect)
    sa.event.listen(sa.Engine, "before_cursor_execute", execute)
    store.newest_image_seq("")
    count.update(statements=0, steps=0)
    yield count
    sa.event.remove(sa.Pool, "connect", connect)
    sa.event.remove(sa.Engine, "before_cursor_execute", execute)


def with_pictures(store: Store, number: int) -> Session:
    """A session with so many pictures: two of three belong to pairs, every second of which is
    answered, and every 10th picture is a favourite."""
    session = store.create_session(str(number), SessionSettings())
    made = [
        make_image(store, session.id, prompt=PROMPTS[n % 3], favourite=n % 10 == 0)
        for n in range(number)
    ]
    with store.writing() as connection:
        connection.execute(sa.insert(images), [vars(one) for one in made])
        sides = [(made[n].id, made[n + 1].id) for n in range(0, 2 * number // 3, 2)]
        connection.exec_driver_sql(
            "INSERT INTO pairs (id, session_id, prompt, left_image_id, right_image_id, note, "
            "created_at_s, stale_at_s) VALUES (?, ?, 'a fox', ?, ?, '', 1, 1)",
            [(f"pair-{left}", session.id, left, right) for left, right in sides],
        )
        connection.exec_driver_sql(
            "INSERT INTO picks (id, pair_id, choice, much_better, created_at_s) "
            "VALUES (?, ?, 'left', 0, 1)",
            [(f"pick-{left}", f"pair-{left}") for left, _ in sides[::2]],
        )
    return session


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"prompt": "a hen"},
        {"adapter_id": None},
        {"favourites": True},
        {"verdict": "chosen"},
        {"verdict": "undecided", "prompt": "an owl"},
    ],
    ids=str,
)
def test_a_page_costs_the_same_among_ten_thousand(many, wanted):
    store, few, all_ = many
    costs = []
    for session in (few, all_):
        chosen = GalleryFilter(**wanted)
        index = store.gallery_index(session.id, chosen)
        middle = (len(index.starts) - 1) // 2
        before = (*index.starts, 0)[middle + 1]
        with counted(store) as count:
            page = store.gallery_page(session.id, chosen, index.starts[middle], before)
        assert len(page) == PAGE
        costs.append((dict(count), len(page)))
    (little, _), (much, _) = costs
    assert much["statements"] == little["statements"]
    assert much["steps"] <= 2 * little["steps"] + 10, costs


def test_ten_thousand_are_counted_in_one_statement_with_a_number_for_each_page(many):
    store, _, all_ = many
    with counted(store) as count:
        index = store.gallery_index(all_.id, GalleryFilter())
    assert count["statements"] == 1 + 1  # and BEGIN
    assert (index.total, len(index.starts)) == (10_000, -(-10_000 // PAGE))


def test_prompts_cost_the_same_among_ten_thousand(many):
    store, few, all_ = many
    steps = []
    for session in (few, all_):
        with counted(store) as count:
            assert store.gallery_prompts(session.id) == sorted(PROMPTS)
        steps.append(count["steps"])
    assert steps[1] <= 2 * steps[0] + 10


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Session, Session]]:
    store = Store.open(tmp_path_factory.mktemp("many"))
    few, all_ = with_pictures(store, 900), with_pictures(store, 10_000)
    yield store, few, all_
    store.close()
