"""How many answers hold and what they say, kept in step without reading all of them again.

Picks are only ever added. So a `Tally` reads those added since its last update and adjusts its sums
by the difference; a new process reads all picks of a session once.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from studio.settings import FEWEST_PICKS, SamplingSettings
from studio.store.answers import parse_sampling
from studio.store.database import Database, read, read_all, remember_damage
from studio.store.errors import RowDamaged
from studio.store.rows import OPEN_ROUND_STATES, OWN_ART, Consistency, PickCounts, Round
from studio.store.schema import images, pairs, picks, question_id, rounds, sessions, state
from studio.store.sessions import read_session
from studio.store.shapes import IMPORTED, Unreadable, require, value_shape
from studio.store.waiting import is_last_pick

Kind = tuple[str, SamplingSettings]  # equal for pictures that may share a round


@dataclass(frozen=True, slots=True)
class _Held:
    """A pick that holds, with what counting needs to know of its pair."""

    id: str
    pair_id: str
    pair_seq: int
    question_id: str
    is_of_grid: bool
    is_clicked: bool  # not chosen because it is the artist's own art
    repeat_of: str | None
    choice: str
    chosen: str | None  # the id of the better picture
    kind: Kind | None  # None: it cannot be learned from


class Tally:
    """The sums over one session's answers. Update it in transactions that only read: what is not
    committed must not be counted."""

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self.last_seq = 0  # of this session's picks
        self._read_up_to = 0  # the same of all sessions
        self._round_seq: int | None = None  # of the newest round
        self._used: set[str] = set()  # the picks of the newest round
        self._held: dict[str, _Held] = {}  # by pick
        self._chosen: dict[str, str] = {}  # by pair, the better picture
        self._answers: dict[str, dict[str, _Held]] = {}  # by question, then by pick
        self._repeats: dict[str, set[str]] = {}  # by pair, the questions that ask it again
        self._learnable: list[tuple[int, str]] = []  # a heap of (-pair_seq, pick id); some are gone
        self._parts: dict[str, Counter[object]] = {}  # what each question adds to the sums
        self._sums: Counter[object] = Counter()
        self._kinds: dict[str, SamplingSettings | None] = {}  # by their JSON

    def update(self, connection: sa.Connection) -> None:
        """Take in the picks, and the round, that were added since the last update."""
        changed = self._read_picks(connection)
        if self._read_round(connection):
            changed = set(self._answers)
        for question in changed:
            self._sums.subtract(self._parts.pop(question, {}))
            if self._answers.get(question):
                self._parts[question] = self._part_of(question)
                self._sums.update(self._parts[question])

    def counts(self) -> PickCounts:
        """How many answers hold, by what they say."""
        sums = self._sums
        return PickCounts(
            total=sums["answers"],
            usable=sums["usable"],
            ties=sums["all", "tie"],
            both_bad=sums["all", "both_bad"],
            skipped=sums["all", "skip"],
            new=sums["new", self._newest_kind()],
        )

    def consistency(self) -> Consistency:
        """How often the artist repeats a choice, and how often it is the left picture."""
        sums = self._sums
        return Consistency(
            repeated=sums["repeated"],
            agreed=sums["agreed"],
            picked=sums["picked"],
            left=sums["left"],
        )

    def _read_picks(self, connection: sa.Connection) -> set[str]:
        """Take in new picks; returns the questions whose part of the sums may have changed."""
        newest = connection.scalar(sa.select(sa.func.max(picks.c.seq))) or 0
        if newest == self._read_up_to:
            return set()
        # After the first time by `seq` alone: going by the session would visit all of its pairs.
        is_new = picks.c.seq > self._read_up_to
        if not self._read_up_to:
            is_new = pairs.c.session_id == self._session_id
        self._read_up_to = newest
        changed: set[str] = set()
        rows = connection.execute(_picks_with_pairs().where(is_new).order_by(picks.c.seq))
        for row in rows:
            if row.session_id != self._session_id:
                continue
            self.last_seq = row.seq
            if row.supersedes in self._held:
                changed |= self._remove(self._held[row.supersedes])
            if row.is_last and row.choice is not None:
                changed |= self._add(self._held_of(row))
        return changed

    def _held_of(self, row: sa.Row) -> _Held:
        sides = {"left": row.left_image_id, "right": row.right_image_id}
        if row.sampling not in self._kinds:
            self._kinds[row.sampling] = parse_sampling(row.sampling)
        sampling = self._kinds[row.sampling]
        return _Held(
            id=row.id,
            pair_id=row.pair_id,
            pair_seq=row.pair_seq,
            question_id=row.question_id,
            is_of_grid=row.grid_id is not None,
            is_clicked=row.judge != OWN_ART,
            repeat_of=row.repeat_of,
            choice=row.choice,
            chosen=sides.get(row.choice),
            kind=None if sampling is None else (row.base_hash, sampling),
        )

    def _add(self, held: _Held) -> set[str]:
        self._held[held.id] = held
        self._answers.setdefault(held.question_id, {})[held.id] = held
        if held.chosen is not None:
            self._chosen[held.pair_id] = held.chosen
            if held.repeat_of is None and held.kind is not None:
                heapq.heappush(self._learnable, (-held.pair_seq, held.id))
        if held.repeat_of is not None:
            self._repeats.setdefault(held.repeat_of, set()).add(held.question_id)
        return {held.question_id, *self._repeats.get(held.pair_id, ())}

    def _remove(self, held: _Held) -> set[str]:
        del self._held[held.id]
        del self._answers[held.question_id][held.id]
        self._chosen.pop(held.pair_id, None)
        return {held.question_id, *self._repeats.get(held.pair_id, ())}

    def _read_round(self, connection: sa.Connection) -> bool:
        """Take in the picks of the newest round; returns whether it is another one."""
        newest = sa.select(rounds).where(rounds.c.session_id == self._session_id)
        newest = newest.order_by(rounds.c.seq.desc()).limit(1)
        seq = connection.scalar(newest.with_only_columns(rounds.c.seq))
        if seq == self._round_seq:
            return False
        self._round_seq = seq
        rows = connection.execute(newest)
        found = read_all(connection, rows, lambda row: read(Round, row, rounds))
        self._used = {id_ for one in found for id_ in one.train_pick_ids + one.held_out_pick_ids}
        return True

    def _part_of(self, question: str) -> Counter[object]:
        """What one question adds to the sums."""
        held = self._answers[question].values()
        part: Counter[object] = Counter(answers=1)
        choices = {one.choice for one in held}
        if len(choices) == 1:
            part["all", choices.pop()] += 1
        # Of a grid that is held out, a round uses one pick only; the others are not new either.
        is_used = any(one.id in self._used for one in held)
        for one in held:
            if one.chosen is None:
                continue
            if one.repeat_of is None:
                part["usable"] += 1
                if one.kind is not None:
                    part["new", one.kind] += not is_used
            elif one.is_clicked and one.repeat_of in self._chosen:
                part["repeated"] += 1
                part["agreed"] += self._chosen[one.repeat_of] == one.chosen
            if one.is_clicked and not one.is_of_grid:
                part["picked"] += 1
                part["left"] += one.choice == "left"
        return part

    def _newest_kind(self) -> Kind | None:
        """The kind of the newest pair that can be learned from."""
        while self._learnable and self._learnable[0][1] not in self._held:
            heapq.heappop(self._learnable)
        return self._held[self._learnable[0][1]].kind if self._learnable else None


def _picks_with_pairs() -> sa.Select:
    return (
        sa.select(
            picks.c.seq,
            picks.c.id,
            picks.c.pair_id,
            picks.c.choice,
            picks.c.judge,
            picks.c.supersedes,
            is_last_pick.label("is_last"),
            pairs.c.session_id,
            pairs.c.seq.label("pair_seq"),
            question_id.label("question_id"),
            pairs.c.grid_id,
            pairs.c.repeat_of,
            pairs.c.left_image_id,
            pairs.c.right_image_id,
            images.c.base_hash,
            sa.type_coerce(images.c.sampling, sa.Text).label("sampling"),
        )
        .select_from(picks)
        .join(pairs, pairs.c.id == picks.c.pair_id)
        .join(images, images.c.id == pairs.c.left_image_id)
    )


class Counts(Database):
    """Sums over the answers of each session, and whether they make a round due."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._tallies: dict[str, Tally] = {}
        self._tallying = threading.Lock()

    def pick_counts(self, session_id: str) -> PickCounts:
        """How many answers hold, by what they say."""
        with self._counting() as connection:
            return self._tally(connection, session_id).counts()

    def consistency(self, session_id: str) -> Consistency:
        """How often the artist repeats a choice, and how often it is the left picture."""
        with self._counting() as connection:
            return self._tally(connection, session_id).consistency()

    def due_session(self) -> str | None:
        """The id of a live session with enough new picks for its next round, or None."""
        is_open = rounds.c.state.in_(OPEN_ROUND_STATES)
        candidates = (
            sa.select(sessions.c.id)
            .where(
                sessions.c.deleted_at_s.is_(None),
                ~sa.exists().where(rounds.c.session_id == sessions.c.id, is_open),
            )
            .order_by(sessions.c.updated_at_s.desc())
        )
        with self._counting() as connection:
            for session_id in connection.scalars(candidates).all():
                try:
                    settings = read_session(connection, session_id).settings
                except RowDamaged as error:
                    remember_damage(connection, error)
                    continue
                if not settings.live:
                    continue
                tally = self._tally(connection, session_id)
                is_due = tally.counts().new >= max(settings.round_every, FEWEST_PICKS)
                if is_due and tally.last_seq > _last_imported_seq(connection, session_id):
                    return session_id
        return None

    @contextmanager
    def _counting(self) -> Iterator[sa.Connection]:
        # The lock comes first: whoever waits for it must not hold up writers with a transaction.
        with self._tallying, self.reading() as connection:
            yield connection

    def _tally(self, connection: sa.Connection, session_id: str) -> Tally:
        tally = self._tallies.pop(session_id, None) or Tally(session_id)
        tally.update(connection)
        self._tallies[session_id] = tally  # not one that an error left half updated
        return tally


def _last_imported_seq(connection: sa.Connection, session_id: str) -> float:
    """The last pick that came with a session from an archive: those picks alone start no round."""
    name = f"{IMPORTED}{session_id}"
    mark = connection.execute(sa.select(state.c.value).where(state.c.name == name)).first()
    if mark is None:
        return 0
    try:
        return require(value_shape(name), mark.value)
    except Unreadable:
        remember_damage(connection, RowDamaged("state", name, "value"))
        return math.inf  # no round starts before the doctor has repaired it
