"""Images, the pairs made of them, and the picks between them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from studio.settings import CHOICES, MAX_NOTE_CHARACTERS, REASONS, Choice, Reason, SamplingSettings
from studio.store.database import read, read_all, remember_damage
from studio.store.errors import RowDamaged, StoreError
from studio.store.rows import (
    Answer,
    Habits,
    Image,
    Pair,
    Pick,
    PickCounts,
    PickedPair,
    Purpose,
    Question,
    Round,
)
from studio.store.schema import images, pairs, picks, question_id, rounds
from studio.store.sessions import Sessions, discard_waiting, read_session, waiting_ids

LOSSLESS_UP_TO_PX = 512  # larger pictures have a smaller copy for the screen
ASK_AGAIN_EVERY = 10  # one pair of so many that were picked is asked again
ANY: Any = object()

_left, _right = images.alias("left_image"), images.alias("right_image")
_later = picks.alias("later")
_pairs_with_images = pairs.join(_left, _left.c.id == pairs.c.left_image_id).join(
    _right, _right.c.id == pairs.c.right_image_id
)
_not_superseded = ~sa.exists().where(_later.c.supersedes == picks.c.id)


def _pair_columns() -> sa.Select[Any]:
    return sa.select(pairs, _left, _right).select_from(_pairs_with_images)


def _read_pair(row: sa.Row[Any]) -> Pair:
    return read(Pair, row, pairs, left=read(Image, row, _left), right=read(Image, row, _right))


def _holding(session_id: str) -> sa.Select[Any]:
    return (
        sa.select(pairs, _left, _right, picks)
        .select_from(_pairs_with_images.join(picks, picks.c.pair_id == pairs.c.id))
        .where(pairs.c.session_id == session_id, _not_superseded, picks.c.choice.is_not(None))
    )


def _read_picked_pair(row: sa.Row[Any]) -> PickedPair:
    return PickedPair(pair=_read_pair(row), pick=read(Pick, row, picks))


def read_picked_pairs(connection: sa.Connection, session_id: str) -> list[PickedPair]:
    """The pairs of a session with the picks that hold, in the order of picking."""
    found = connection.execute(_holding(session_id).order_by(picks.c.place))
    return read_all(connection, found, _read_picked_pair)


def learnable_pick_ids(connection: sa.Connection, session_id: str) -> list[str]:
    """Picks of left or right on pictures that may share a round with those of the newest such pair
    (`SamplingSettings.may_share_a_round_with`).

    What was asked again is left out: it shows how sure the artist is, and would count the pair
    twice. The order is that of picking. An old pick that is changed does not make the pictures of
    its time the ones to learn from.
    """
    found = connection.execute(
        sa.select(
            picks.c.id,
            _left.c.base_hash,
            sa.type_coerce(_left.c.sampling, sa.Text).label("sampling"),  # read once a kind
            pairs.c.place,
        )
        .select_from(_pairs_with_images.join(picks, picks.c.pair_id == pairs.c.id))
        .where(
            pairs.c.session_id == session_id,
            pairs.c.repeat_of.is_(None),
            _not_superseded,
            picks.c.choice.in_(("left", "right")),
        )
        .order_by(picks.c.place)
    ).all()
    kinds = {text: _read_sampling(text) for text in {row.sampling for row in found}}
    found = [row for row in found if kinds[row.sampling] is not None]
    if not found:
        return []
    newest = max(found, key=lambda row: row.place)
    alike = {
        text
        for text, kind in kinds.items()
        if kind is not None and kind.may_share_a_round_with(kinds[newest.sampling])
    }
    return [row.id for row in found if row.base_hash == newest.base_hash and row.sampling in alike]


def _read_sampling(text: str) -> SamplingSettings | None:
    """Settings from their JSON; None for what cannot be read."""
    try:
        return SamplingSettings.from_dict(json.loads(text))
    except (AttributeError, RecursionError, TypeError, ValueError):
        return None


def count_picks(connection: sa.Connection, session_id: str) -> PickCounts:
    """How many answers of a session hold, by what they say."""
    holding = connection.execute(
        sa.select(picks.c.id, picks.c.choice, pairs.c.repeat_of, question_id.label("question_id"))
        .join(pairs, picks.c.pair_id == pairs.c.id)
        .where(pairs.c.session_id == session_id, _not_superseded, picks.c.choice.is_not(None))
    ).all()
    said: dict[str, set[str]] = {}
    for row in holding:
        said.setdefault(row.question_id, set()).add(row.choice)
    answers = list(said.values())
    first_asked = [row.choice for row in holding if row.repeat_of is None]
    last_round = connection.execute(
        sa.select(rounds)
        .where(rounds.c.session_id == session_id)
        .order_by(rounds.c.place.desc())
        .limit(1)
    )
    used = {
        pick_id
        for round_ in read_all(connection, last_round, lambda row: read(Round, row, rounds))
        for pick_id in round_.train_pick_ids + round_.held_out_pick_ids
    }
    # Of a grid that is held out a round asks about one pick only; the rest of it is not new.
    known = {row.question_id for row in holding if row.id in used}
    used |= {row.id for row in holding if row.question_id in known}
    return PickCounts(
        total=len(answers),
        usable=first_asked.count("left") + first_asked.count("right"),
        ties=answers.count({"tie"}),
        both_bad=answers.count({"both_bad"}),
        skipped=answers.count({"skip"}),
        new=len(set(learnable_pick_ids(connection, session_id)) - used),
    )


def read_question(connection: sa.Connection, id_: str) -> Question:
    """A question, or a StoreError."""
    found = connection.execute(_pair_columns().where(question_id == id_).order_by(pairs.c.place))
    of_it = tuple(_read_pair(row) for row in found)
    if not of_it:
        raise StoreError("This pair does not exist.")
    return Question(of_it)


def _whole_questions(connection: sa.Connection, ids: Sequence[str], most: int) -> list[Question]:
    """The first of `ids`, in their order, of which every pair can be read."""
    torn: set[str] = set()
    while True:
        wanted = [id_ for id_ in ids if id_ not in torn][:most]
        asked: dict[str, list[Pair]] = {id_: [] for id_ in wanted}
        query = _pair_columns().where(question_id.in_(wanted)).order_by(pairs.c.place)
        for row in connection.execute(query):
            id_ = row._mapping[pairs.c.grid_id] or row._mapping[pairs.c.id]
            try:
                asked[id_].append(_read_pair(row))
            except RowDamaged as error:
                remember_damage(connection, error)
                torn.add(id_)
        torn |= {id_ for id_, of_it in asked.items() if not of_it}  # their pictures are gone
        if torn.isdisjoint(wanted):
            return [Question(tuple(of_it)) for of_it in asked.values()]


class Labelling(Sessions):
    """What was drawn, what is waiting, and what was picked."""

    @staticmethod
    def new_image_id() -> str:
        """An id for an image whose files are about to be written."""
        return uuid.uuid4().hex

    def image_path(self, image: Image) -> Path:
        """The lossless picture."""
        return self._image_file(image, "images", ".png")

    def display_path(self, image: Image) -> Path:
        """The picture to show on the screen: the lossless one as long as that is small."""
        if max(image.sampling.width_px, image.sampling.height_px) <= LOSSLESS_UP_TO_PX:
            return self.image_path(image)
        return self._image_file(image, "display", ".jpg")

    def trajectory_path(self, image: Image) -> Path:
        """The latents the picture was made of, step by step."""
        return self._image_file(image, "trajectories", ".safetensors")

    def _image_file(self, image: Image, folder: str, suffix: str) -> Path:
        return self.session_path(image.session_id) / folder / f"{image.id}{suffix}"

    def add_image(self, image: Image) -> Image:
        """Keep an image whose files are already on the disk."""
        with self._writing() as connection:
            read_session(connection, image.session_id)
            connection.execute(sa.insert(images).values(vars(image)))
        return image

    def image(self, image_id: str) -> Image:
        """One image."""
        with self._reading() as connection:
            found = connection.execute(sa.select(images).where(images.c.id == image_id)).first()
        if found is None:
            raise StoreError("This picture does not exist.")
        return read(Image, found, images)

    def find_image(self, like: Image) -> Image | None:
        """The newest image that shows what `like` would show, or None."""
        same = ("session_id", "purpose", "prompt", "seed", "adapter_id", "strength", "base_hash")
        query = sa.select(images).where(
            images.c.sampling == like.sampling,
            images.c.beside == like.beside,
            *(images.c[name] == getattr(like, name) for name in same),
        )
        with self._reading() as connection:
            found = connection.execute(query.order_by(images.c.place.desc()).limit(1)).first()
        return None if found is None else read(Image, found, images)

    def images(
        self,
        session_id: str,
        purpose: Purpose,
        *,
        adapter_id: str | None = ANY,
        limit: int = 100,
    ) -> list[Image]:
        """Images of one purpose, the newest first; `adapter_id` None means those of the base."""
        query = sa.select(images).where(
            images.c.session_id == session_id, images.c.purpose == purpose
        )
        if adapter_id is not ANY:
            query = query.where(images.c.adapter_id == adapter_id)
        with self._reading() as connection:
            found = connection.execute(query.order_by(images.c.place.desc()).limit(limit))
            return read_all(connection, found, lambda row: read(Image, row, images))

    def add_pair(
        self, session_id: str, prompt: str, left: Image, right: Image, adapter_id: str | None
    ) -> Pair:
        """Keep a pair and its two images, whose files are already on the disk."""
        return self.add_question(session_id, prompt, [left, right], adapter_id).pairs[0]

    def add_question(
        self, session_id: str, prompt: str, pictures: Sequence[Image], adapter_id: str | None
    ) -> Question:
        """Keep two images as a pair, or more as a grid; their files are already on the disk."""
        sides = list(combinations(pictures, 2))
        ids = [uuid.uuid4().hex for _ in sides]
        asked = Question(
            tuple(
                Pair(
                    id=id_,
                    session_id=session_id,
                    prompt=prompt,
                    left=left,
                    right=right,
                    adapter_id=adapter_id,
                    created_at_s=time.time(),
                    grid_id=ids[0] if len(ids) > 1 else None,
                )
                for id_, (left, right) in zip(ids, sides, strict=True)
            )
        )
        with self._writing() as connection:
            read_session(connection, session_id)
            connection.execute(sa.insert(images), [vars(picture) for picture in pictures])
            for pair in asked.pairs:
                self._insert_pair(connection, pair)
        return asked

    def ask_again(self, session_id: str) -> Pair | None:
        """Put a pair that was picked some time ago into the queue once more, sides swapped.

        One of every `ASK_AGAIN_EVERY` picked pairs, the fifth, so that it is not fresh in memory.
        None when it is not time for one.
        """
        with self._writing() as connection:
            asked = connection.scalar(
                sa.select(sa.func.count()).where(
                    pairs.c.session_id == session_id, pairs.c.repeat_of.is_not(None)
                )
            )
            # One pair of a grid stands for it: an answer is one opinion.
            answered: dict[str, Pair] = {}
            for one in read_picked_pairs(connection, session_id):
                if one.pick.choice in ("left", "right") and one.pair.repeat_of is None:
                    answered.setdefault(one.pair.question_id, one.pair)
            first = list(answered.values())
            if len(first) < (asked + 1) * ASK_AGAIN_EVERY:
                return None
            before = first[asked * ASK_AGAIN_EVERY + ASK_AGAIN_EVERY // 2]
            again = replace(
                before,
                id=uuid.uuid4().hex,
                left=before.right,
                right=before.left,
                created_at_s=time.time(),
                repeat_of=before.id,
                note="",
                grid_id=None,
            )
            self._insert_pair(connection, again)
        return again

    def habits(self, session_id: str) -> Habits:
        """How sure the artist is, and whether one side is picked more than the other."""
        picked = [
            one for one in self.picked_pairs(session_id) if one.pick.choice in ("left", "right")
        ]

        first = {one.pair.id: one.chosen.id for one in picked}
        again = [one for one in picked if one.pair.repeat_of in first]
        alone = [one.pick.choice for one in picked if one.pair.grid_id is None]
        return Habits(
            asked_again=len(again),
            same_again=sum(first[one.pair.repeat_of] == one.chosen.id for one in again),
            picked=len(alone),
            left=alone.count("left"),
        )

    def pair(self, pair_id: str) -> Pair:
        """One pair."""
        with self._reading() as connection:
            return self._pair(connection, pair_id)

    def waiting(self, session_id: str, limit: int = 8) -> list[Question]:
        """What waits for an answer: those withdrawn last come first, then the oldest."""
        with self._reading() as connection:
            ids = connection.scalars(waiting_ids(session_id)).all()
            return _whole_questions(connection, ids, limit)

    def waiting_pairs(self, session_id: str, limit: int = 8) -> list[Pair]:
        """The pairs of what waits for an answer, in that order."""
        return [pair for asked in self.waiting(session_id, limit) for pair in asked.pairs]

    def waiting_count(self, session_id: str) -> int:
        """How many pairs or grids wait for an answer."""
        with self._reading() as connection:
            return _count(connection, waiting_ids(session_id))

    def drawn_count(self, session_id: str) -> int:
        """How many pairs or grids were ever drawn for a session; what is asked again is not."""
        drawn = (
            sa.select(question_id)
            .distinct()
            .where(pairs.c.session_id == session_id, pairs.c.repeat_of.is_(None))
        )
        with self._reading() as connection:
            return _count(connection, drawn)

    def discard_waiting_pairs(self, session_id: str, *, keep: int = 0) -> None:
        """Show no waiting pair any more but the first `keep`. A pick on one is still taken."""
        with self._writing() as connection:
            discard_waiting(connection, session_id, keep=keep)

    def add_pick(
        self,
        pick_id: str,
        pair_id: str,
        choice: Choice,
        *,
        much_better: bool = False,
        reason: Reason | None = None,
    ) -> Pick:
        """Keep what the artist said about a pair; it supersedes what was said about it before.

        Doing it again with the same `pick_id` changes nothing: a lost answer can be asked for
        again. Only left and right can be much better, or better for a reason.
        """
        if choice not in CHOICES:
            raise StoreError(f"A pick is one of {', '.join(CHOICES)}.")
        if reason is not None and reason not in REASONS:
            raise StoreError(f"A reason is one of {', '.join(REASONS)}.")
        if (much_better or reason) and choice not in ("left", "right"):
            raise StoreError("Only a picture that is better can be much better, or for a reason.")
        with self._writing() as connection:
            known = connection.execute(sa.select(picks).where(picks.c.id == pick_id)).first()
            if known is not None:
                return read(Pick, known, picks)
            if self._pair(connection, pair_id).grid_id is not None:
                raise StoreError("The pictures of a grid are answered together.")
            return self._insert_pick(connection, pick_id, pair_id, choice, much_better, reason)

    def add_ranking(
        self,
        answer_id: str,
        grid_id: str,
        ranking: Sequence[str],
        otherwise: Choice = "skip",
        *,
        reason: Reason | None = None,
    ) -> None:
        """Keep what the artist said about a grid; it supersedes what was said about it before.

        ranking: ids of its pictures, the best first. One that is not named is worse than each that
        is; about two that are not named nothing was said, and `otherwise` (skip, tie or both_bad)
        is kept. Doing it again with the same `answer_id` changes nothing.
        """
        if otherwise not in ("skip", "tie", "both_bad"):
            raise StoreError("What is not put in order is skipped, just as good, or no good.")
        if reason is not None and (reason not in REASONS or not ranking):
            raise StoreError(f"A reason is one of {', '.join(REASONS)}, for what is better.")
        place = {image_id: number for number, image_id in enumerate(ranking)}
        with self._writing() as connection:
            if connection.scalar(sa.select(picks.c.id).where(picks.c.id == answer_id)):
                return
            asked = read_question(connection, grid_id)
            if len(place) != len(ranking) or not place.keys() <= {i.id for i in asked.images}:
                raise StoreError("An order names pictures of its grid, each of them once.")
            for number, pair in enumerate(asked.pairs):
                left, right = (place.get(i.id, len(place)) for i in (pair.left, pair.right))
                choice = otherwise if left == right else "left" if left < right else "right"
                why = None if left == right else reason
                self._insert_pick(connection, _nth(answer_id, number), pair.id, choice, False, why)

    def undo_pick(self, undo_id: str, session_id: str) -> Question | None:
        """Withdraw the newest answer that holds; its question is the next one waiting.

        Returns that question, or None when there is no answer. Doing it again with the same
        `undo_id` changes nothing and returns the same question.
        """
        with self._writing() as connection:
            done = sa.select(picks.c.pair_id).where(picks.c.id == undo_id)
            newest = (
                sa.select(picks.c.pair_id)
                .join(pairs, picks.c.pair_id == pairs.c.id)
                .where(
                    pairs.c.session_id == session_id, _not_superseded, picks.c.choice.is_not(None)
                )
                .order_by(picks.c.place.desc())
                .limit(1)
            )
            before = connection.scalar(done)
            pair_id = before or connection.scalar(newest)
            if pair_id is None:
                return None
            asked = read_question(connection, self._pair(connection, pair_id).question_id)
            if before is None:
                for number, pair in enumerate(asked.pairs):
                    self._insert_pick(connection, _nth(undo_id, number), pair.id, None)
                # The artist asked to see it again, whatever has happened to the queue since.
                connection.execute(
                    sa.update(pairs).where(question_id == asked.id).values(stale_at_s=None)
                )
            return asked

    def answer_before(self, answer_id: str) -> Answer | None:
        """The answer that another one replaced, or that an undo withdrew; None where none held."""
        with self._reading() as connection:
            pair_id = connection.scalar(sa.select(picks.c.pair_id).where(picks.c.id == answer_id))
            if pair_id is None:
                raise StoreError("This answer does not exist.")
            asked = read_question(connection, self._pair(connection, pair_id).question_id)
            later = picks.alias()
            ids = [_nth(answer_id, number) for number in range(len(asked.pairs))]
            found = connection.execute(
                sa.select(picks)
                .join(later, later.c.supersedes == picks.c.id)
                .where(later.c.id.in_(ids), picks.c.choice.is_not(None))
            )
            by_pair = {row.pair_id: read(Pick, row, picks) for row in found}
        if not by_pair:
            return None
        return Answer(tuple(PickedPair(pair, by_pair[pair.id]) for pair in asked.pairs))

    def picked_pairs(self, session_id: str) -> list[PickedPair]:
        """The pairs with the picks that hold, in the order of picking."""
        with self._reading() as connection:
            return read_picked_pairs(connection, session_id)

    def recent_answers(
        self,
        session_id: str,
        *,
        before: str | None = None,
        favourites: bool = False,
        limit: int = 40,
    ) -> list[Answer]:
        """What holds, the newest first; `before` the answer of that id, which may be gone.

        With `favourites`, only those with a favourite picture.
        """
        newest = (
            sa.select(question_id.label("question_id"))
            .select_from(_pairs_with_images.join(picks, picks.c.pair_id == pairs.c.id))
            .where(pairs.c.session_id == session_id, _not_superseded, picks.c.choice.is_not(None))
            .group_by(question_id)
            .order_by(sa.func.max(picks.c.place).desc())
            .limit(limit)
        )
        if before is not None:
            place = sa.select(picks.c.place).where(picks.c.id == before).scalar_subquery()
            newest = newest.where(picks.c.place < place)
        if favourites:
            newest = newest.having(sa.func.max(_left.c.favourite | _right.c.favourite))
        with self._reading() as connection:
            ids = connection.scalars(newest).all()
            found = connection.execute(
                _holding(session_id).where(question_id.in_(ids)).order_by(pairs.c.place)
            )
            picked: dict[str, list[PickedPair]] = {id_: [] for id_ in ids}
            for one in read_all(connection, found, _read_picked_pair):
                picked[one.pair.question_id].append(one)
        return [Answer(tuple(of_it)) for of_it in picked.values() if of_it]

    def set_favourite(self, image_id: str, favourite: bool) -> None:
        """Mark a picture as a favourite, or not any more."""
        with self._writing() as connection:
            found = connection.execute(
                sa.update(images).where(images.c.id == image_id).values(favourite=bool(favourite))
            )
            if not found.rowcount:
                raise StoreError("This picture does not exist.")

    def set_note(self, pair_id: str, note: str) -> None:
        """Keep what the artist wrote about a pair, in place of what was written before."""
        note = note.strip()
        if len(note) > MAX_NOTE_CHARACTERS:
            raise StoreError(f"A note has at most {MAX_NOTE_CHARACTERS} characters.")
        with self._writing() as connection:
            self._pair(connection, pair_id)
            connection.execute(sa.update(pairs).where(pairs.c.id == pair_id).values(note=note))

    def pick_counts(self, session_id: str) -> PickCounts:
        """How many picks hold, by what they say."""
        with self._reading() as connection:
            return count_picks(connection, session_id)

    @staticmethod
    def _insert_pair(connection: sa.Connection, pair: Pair) -> None:
        values = {
            name: value for name, value in vars(pair).items() if name not in ("left", "right")
        }
        sides = {"left_image_id": pair.left.id, "right_image_id": pair.right.id}
        connection.execute(sa.insert(pairs).values(values | sides))

    def _pair(self, connection: sa.Connection, pair_id: str) -> Pair:
        found = connection.execute(_pair_columns().where(pairs.c.id == pair_id)).first()
        if found is None:
            raise StoreError("This pair does not exist.")
        return _read_pair(found)

    def _insert_pick(
        self,
        connection: sa.Connection,
        pick_id: str,
        pair_id: str,
        choice: Choice | None,
        much_better: bool = False,
        reason: Reason | None = None,
    ) -> Pick:
        newest = sa.select(picks.c.id).where(picks.c.pair_id == pair_id, _not_superseded)
        pick = Pick(
            id=pick_id,
            pair_id=pair_id,
            choice=choice,
            created_at_s=time.time(),
            supersedes=connection.scalar(newest),
            much_better=much_better,
            reason=reason,
        )
        connection.execute(sa.insert(picks).values(vars(pick)))
        return pick


def _nth(answer_id: str, number: int) -> str:
    """The id of the pick of the `number`-th pair of a question: the first has the answer's own."""
    return f"{answer_id}-{number}" if number else answer_id


def _count(connection: sa.Connection, query: sa.Select[Any]) -> int:
    found = query.order_by(None).subquery()
    return connection.scalar(sa.select(sa.func.count()).select_from(found)) or 0
