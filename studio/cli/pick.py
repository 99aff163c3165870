"""`pick`: a judge answers the questions of a session, as the artist would: see `studio.judges`."""

from __future__ import annotations

import argparse
import time
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Literal

import PIL.Image

from studio import judges
from studio.cli.errors import CommandError, progress
from studio.cli.home import find_session, open_store, wait_for_worker
from studio.judges import Judge
from studio.pictures.files import read_picture, rgb
from studio.settings import Choice
from studio.store import AlreadyAnswered, Image, Question, Session, Store

NOTICE_S = 5.0  # until the worker's status is about the session that was opened for it


def pick(arguments: argparse.Namespace) -> int:
    """Pick so many times; a running studio on the same home draws the pictures itself."""
    judge = judges.load(arguments.judge)
    name = Path(arguments.judge).name  # without the folders of this machine
    with open_store(arguments) as store:
        session = find_session(store, arguments.session)
        wanted, done = arguments.picks or session.settings.round_every, 0

        def pick_waiting() -> bool:
            """Whether all picks are made; if not, no question is waiting."""
            nonlocal done
            while done < wanted and (waiting := store.waiting(session.id, limit=1)):
                done += _answer(store, waiting[0], judge, name)
                progress(f"{done} of {wanted} picks by {name}")
            return done >= wanted

        try:
            if not pick_waiting():
                if not session.settings.prompts:
                    raise CommandError(f"{session.name} has no prompts: write some in the studio.")
                store.set_last_session(session.id)  # the worker draws for the open session alone
                opened_at_s = time.time()

                def poll() -> bool | None:
                    _require_drawing(store, session, opened_at_s)
                    return pick_waiting() or None

                wait_for_worker(store.home, poll)
        finally:
            progress(f"{done} of {wanted} picks by {name}", last=True)
    return 0


def _answer(store: Store, question: Question, judge: Judge, name: str) -> bool:
    """Answer as the judge would; False if the artist was faster."""
    prompt = question.pairs[0].prompt
    scores = {one.id: judges.score(judge, _picture(store, one), prompt) for one in question.images}
    choice, ranking = answer_of(scores)
    try:
        store.add_answer(uuid.uuid4().hex, question.id, choice, ranking=ranking, judge=name)
    except AlreadyAnswered:
        return False
    return True


def answer_of(scores: dict[str, float]) -> tuple[Choice | Literal["ranked"], tuple[str, ...]]:
    """Choice and ranking, from the scores of a question's pictures in their order on the screen.

    A grid is ranked from the best picture to the first two that are equal, for a ranking knows no
    ties; it is skipped if its best ones are equal.
    """
    if len(set(scores.values())) == 1:
        return "tie", ()
    if len(scores) == 2:
        left, right = scores.values()
        return "left" if left > right else "right", ()
    ids = sorted(scores, key=scores.__getitem__, reverse=True)
    neighbours = enumerate(pairwise(ids))
    clear = next((at for at, (a, b) in neighbours if scores[a] == scores[b]), len(ids))
    return ("ranked", tuple(ids[:clear])) if clear else ("skip", ())


def _picture(store: Store, image: Image) -> PIL.Image.Image:
    try:
        return rgb(read_picture(store.image_path(image)))
    except (OSError, ValueError) as error:
        raise CommandError(
            f"A picture of “{image.prompt}” cannot be read: {error}. Skip it on the Prefer tab and "
            "repeat the command; `python launch.py doctor` lists all such files."
        ) from error


def _require_drawing(store: Store, session: Session, opened_at_s: float) -> None:
    """Raise if the worker will draw nothing for a session that was opened for it."""
    if store.last_session_id() != session.id:
        raise CommandError(
            "Another session was opened meanwhile, and the studio draws for that one. Repeat the "
            f"command to open {session.name} again."
        )
    status = store.worker_status()
    if status is None or status.heartbeat_at_s < opened_at_s + NOTICE_S:
        return
    if status.state == "error":
        raise CommandError(status.message)
