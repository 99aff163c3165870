"""A judge in the artist's place: it answers the questions of a session; see `studio.judges`."""

from __future__ import annotations

import os
import stat
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Literal

import PIL.Image

from studio import judges
from studio.judges import Judge, JudgeError
from studio.pictures.files import read_picture, rgb
from studio.settings import Choice
from studio.store import AlreadyAnswered, Image, Question, Store


def name_of(reference: str) -> str:
    """The name of a judge in the store, without the folders of this machine."""
    return Path(reference).name


def require_own_file(reference: str) -> None:
    """Raise JudgeError unless a judge is built in, or stands in a file that only this user writes.

    A page may ask for it, and other users of the machine can reach a page without a password: they
    must not have the studio run a file of theirs.
    """
    if reference in judges.BUILT_IN:
        return
    source, _, _ = reference.rpartition(":")
    path = Path(source)
    if path.suffix != ".py" or not path.is_absolute():
        raise JudgeError("Name a file of your own with its whole path: /home/me/taste.py:calm.")
    try:
        found = path.stat()
    except OSError as error:
        raise JudgeError(f"There is no file {path}.") from error
    if os.name == "posix" and (found.st_uid != os.getuid() or found.st_mode & stat.S_IWOTH):
        raise JudgeError(
            f"{path} is not run: it belongs to another user of this computer, or others may write "
            "it. Copy it into a folder of your own."
        )


def answer(store: Store, question: Question, judge: Judge, name: str) -> bool:
    """Answer as the judge would; False if somebody was faster. Raises JudgeError."""
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
        raise JudgeError(
            f"A picture of “{image.prompt}” cannot be read: {error}. Skip it on the Prefer tab and "
            "repeat this; `python launch.py doctor` lists all such files."
        ) from error
