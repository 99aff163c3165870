"""The value of the Prefer component: the next questions, the counts, and the round's progress."""

from __future__ import annotations

from collections import ChainMap
from dataclasses import asdict
from typing import Any

from studio.durations import duration
from studio.messages import _, together, told
from studio.store import Answer, Question
from studio.store.rows import OWN_ART
from studio.ui import words
from studio.ui.images import image_url, source_of, thumbnail_url
from studio.ui.jobs import is_open, words_of
from studio.ui.snapshot import StoreSnapshot

QUESTIONS_SENT = 64  # all that ever wait, so that a slow answer holds nobody up


def page_state(snapshot: StoreSnapshot) -> dict[str, Any]:
    waiting = snapshot.store.waiting(snapshot.session.id, limit=QUESTIONS_SENT)
    round_ = snapshot.open_round
    is_learning = round_ is not None and round_.state == "running"
    return {
        "session_id": snapshot.session.id,
        "waiting": [question_value(question) for question in waiting],
        "pictures": snapshot.settings.pictures,
        "counts": asdict(snapshot.counts),
        "live": snapshot.settings.live,
        "round_every": snapshot.settings.round_every,
        "round": round_line(snapshot),
        "known": known_line(snapshot),
        "round_share": words.share_done(round_, snapshot.worker) if is_learning else None,
        "empty": None if waiting else empty(snapshot),
    }


def question_value(question: Question) -> dict[str, Any]:
    """A question for the browser."""
    first = question.pairs[0]
    return {
        "id": question.id,
        "prompt": first.prompt,
        "source": source(question),
        "width_px": first.left.sampling.width_px,
        "height_px": first.left.sampling.height_px,
        "again": first.repeat_of is not None,
        "note": first.note,
        "pictures": [
            {
                "image_id": image.id,
                "url": image_url(image.id),
                "thumbnail": thumbnail_url(image.id),
                "favourite": image.favourite,
            }
            for image in question.images
        ],
    }


def source(question: Question) -> str:
    """Where its pictures come from; "" for drawn ones."""
    if any(image.is_own for image in question.images):
        return _("Your own art beside a drawing")
    return source_of(question.images[0])


def answer_value(answer: Answer) -> dict[str, Any]:
    """An answer for the browser."""
    picks = [picked.pick for picked in answer.picked]
    is_ranked = len(picks) > 1 and answer.ranking
    marks = ChainMap(*(picked.marks for picked in answer.picked))
    return {
        "choice": "ranked" if is_ranked else picks[0].choice,
        "much_better": picks[0].much_better,
        "reason": next((pick.reason for pick in picks if pick.reason), None),
        "ranking": list(answer.ranking),
        "judge": picks[0].judge,
        "is_own": picks[0].judge == OWN_ART,
        "marks": {i.id: marks[i.id] for i in answer.question.images if i.id in marks},
    }


def round_line(snapshot: StoreSnapshot) -> str:
    """The state of the open round, or how to start one."""
    round_ = snapshot.open_round
    if round_ is None:
        return "" if snapshot.settings.live else _("Start a round on the Train tab")
    if round_.state == "paused":
        return _("Round {number} is paused", number=round_.number)
    if round_.state == "running":
        line = words.learning_line(round_, snapshot.worker, is_brief=True)
        return _(
            "Round {number}: {line}",
            number=round_.number,
            line=words.lowered(line),
        )
    return _("Round {number} is about to begin", number=round_.number)


def known_line(snapshot: StoreSnapshot) -> str:
    """Agreement on held-out picks, and how consistent the artist is; Train explains both."""
    parts = []
    if snapshot.agreement is not None:
        right, asked = snapshot.agreement
        parts.append(_("it guesses {right} of {asked}", right=right, asked=asked))
    if snapshot.consistency.repeated:
        agreed, repeated = snapshot.consistency.agreed, snapshot.consistency.repeated
        parts.append(_("you repeat {agreed} of {repeated}", agreed=agreed, repeated=repeated))
    return ", ".join(parts)


def empty(snapshot: StoreSnapshot) -> dict[str, Any]:
    """Why no question is waiting, and what to do or how long to wait."""
    if snapshot.settings.pairs_of == "folder":
        return empty_folder(snapshot)
    if not snapshot.settings.prompts:
        return {
            "title": _("No prompts yet"),
            "text": _("Write a few prompts, one on each line. The first pair follows by itself."),
            "action": _("Write prompts"),
            "tab": "prompt",
        }
    tone, line = snapshot.worker_line
    if tone == "bad":
        return {"title": line, "text": _("Nothing is lost: your picks are kept."), "working": True}
    if tone == "wait":
        return {
            "title": line,
            "text": _("It loads the model first. The first pair follows in a moment."),
            "working": True,
        }
    if snapshot.open_round is not None and snapshot.open_round.state == "running":
        at = words.progress_of(snapshot.open_round, snapshot.worker)
        known = at is not None and at.left_s is not None
        until = _("It needs {duration}.", duration=duration(at.left_s)) if known else ""
        return {
            "title": _("The painter is learning"),
            "text": together(_("New pairs come when this round is done."), until),
            "working": True,
        }
    is_pair = snapshot.settings.pictures == 2
    faster = _("You were faster than the painter.") if snapshot.counts.total else ""
    now = ""
    if snapshot.worker and snapshot.worker.state == "sampling" and snapshot.worker.message:
        now = told(f"{snapshot.worker.message.partition(':')[0]}.")  # and how long it takes
    return {
        "title": _("The next pair is being drawn")
        if is_pair
        else _("The next pictures are being drawn"),
        "text": together(faster, now, _("What comes next appears here by itself.")),
        "working": True,
    }


def empty_folder(snapshot: StoreSnapshot) -> dict[str, Any]:
    """The same where pairs are of pictures from a folder."""
    job = snapshot.newest_job("read_folder")
    if job is not None and is_open(job):
        return {
            "title": _("The folder is being read"),
            "text": together(words_of(snapshot, job), _("Pairs appear here by themselves.")),
            "working": True,
        }
    is_read = snapshot.store.folder_count(snapshot.session.id) > 0
    text = (
        _(
            "Its pictures are in order, as far as a few clicks tell. Read another folder, or let "
            "the model draw again."
        )
        if is_read
        else _("Name a folder with pictures, or let the model draw.")
    )
    title = _("All pairs of the folder are picked") if is_read else _("No pictures to pick from")
    return {"title": title, "text": text, "action": _("Go to the folder"), "tab": "prompt"}
