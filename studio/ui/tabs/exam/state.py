"""The value of the exam's component: the open exam, or the results of the finished ones."""

from __future__ import annotations

from typing import Any

from studio.messages import _, together, told
from studio.statistics import Tally, exam_sentence, recommended_strength, tallies
from studio.store import Exam
from studio.store.rows import Job
from studio.ui import words
from studio.ui.adapters import best_strength, round_number
from studio.ui.images import image_url
from studio.ui.jobs import is_open, words_of
from studio.ui.snapshot import StoreSnapshot

PAIRS_SENT = 4  # the browser decodes these ahead


def page_state(snapshot: StoreSnapshot) -> dict[str, Any]:
    """An open exam is shown without any hint at which picture is which."""
    exams = snapshot.store.exams(snapshot.session.id)
    current = next((exam for exam in exams if exam.is_open), None)
    finished = [exam for exam in exams if exam.is_finished]
    return {
        "exam": current and _open_exam(snapshot, current),
        "result": _result(snapshot, finished) if finished else None,
        "rows": _rows(snapshot, finished),
        "empty": None if finished else _empty(snapshot),
    }


def _open_exam(snapshot: StoreSnapshot, exam: Exam) -> dict[str, Any]:
    unanswered = [pair for pair in exam.pairs if pair.is_drawn and pair.choice is None]
    drawn = sum(pair.is_drawn for pair in exam.pairs)
    return {
        "id": exam.id,
        "total": len(exam.pairs),
        "answered": exam.answered,
        "width_px": exam.sampling.width_px,
        "height_px": exam.sampling.height_px,
        "pairs": [
            {
                "id": pair.id,
                "prompt": pair.prompt,
                "left": image_url(pair.sides[0] or ""),
                "right": image_url(pair.sides[1] or ""),
            }
            for pair in unanswered[:PAIRS_SENT]
        ],
        "drawing": _drawing(snapshot, exam, drawn),
        "problem": _drawing_problem(snapshot, exam) if drawn < len(exam.pairs) else "",
    }


def _drawing(snapshot: StoreSnapshot, exam: Exam, drawn: int) -> str:
    """`3 of 20 pairs drawn. Drawing pair 4 of 20, about 1 min left.`"""
    counted = _("{drawn} of {pairs} drawn.", drawn=drawn, pairs=words.pairs(len(exam.pairs)))
    job = _job(snapshot, exam)
    return f"{counted} {words_of(snapshot, job)}." if job is not None and is_open(job) else counted


def _job(snapshot: StoreSnapshot, exam: Exam) -> Job | None:
    """The newest one that draws its pictures."""
    jobs = snapshot.store.jobs(snapshot.session.id, kind="exam")
    return next((job for job in jobs if job.payload.get("exam_id") == exam.id), None)


def _drawing_problem(snapshot: StoreSnapshot, exam: Exam) -> str:
    """Why the missing pictures are not being drawn; "" if they are."""
    job = _job(snapshot, exam)
    if job is None:
        return _("The painter has stopped.")
    return "" if is_open(job) else told(job.message)


def _result(snapshot: StoreSnapshot, finished: list[Exam]) -> dict[str, Any]:
    """The newest finished exam, with the solution."""
    newest = finished[0]
    tally = Tally(newest.tuned_wins, newest.base_wins, newest.ties)
    if newest.mix is None:
        what = _(
            "Round {number} at strength {strength:g}, against the base model",
            number=round_number(snapshot, newest.adapter_id),
            strength=newest.strength,
        )
        best = best_strength(snapshot, newest.adapter_id)
    else:
        what = _(
            "{name} at strength {strength:g}, against the base model",
            name=newest.mix["name"],
            strength=newest.strength,
        )
        best = None  # the export offers the round alone
    return {
        "what": what,
        "sentence": exam_sentence(tally),
        "meaning": meaning(tally, newest.strength, best),
        "pairs": [
            {
                "prompt": pair.prompt,
                "left": image_url(pair.sides[0] or ""),
                "right": image_url(pair.sides[1] or ""),
                "tuned": pair.tuned_side,
                "choice": pair.choice,
            }
            for pair in newest.pairs
        ],
    }


def meaning(tally: Tally, strength: float, best: float | None) -> str:
    """What follows from the interval, and what to do next. `best`: the recommended strength."""
    low, high = tally.interval
    if low > 0.5:
        sentence = (
            _("You prefer the tuned model, and chance does not explain it.")
            if strength > 0
            else _("You prefer your taste turned round, and chance does not explain it.")
        )
    elif high < 0.5:
        sentence = (
            _("You prefer the base model: a lower strength or an earlier round may do better.")
            if strength > 0
            else _(
                "You prefer the base model: a positive strength or an earlier round may do better."
            )
        )
    else:
        sentence = _(
            "That is not more than chance explains: more pairs, or another strength, may tell."
        )
    if best is not None:
        advice = _(
            "Strength {strength:g} is recommended, and offered for the export.", strength=best
        )
        sentence = together(sentence, advice)
    return sentence


def _rows(snapshot: StoreSnapshot, finished: list[Exam]) -> list[dict[str, Any]]:
    """A row for every adapter or mix, and strength, that was examined: the newest adapter first,
    then the mixes. Mixes count as the same if they were drawn with the same contents."""
    groups: dict[str, tuple[int | str, list[Exam]]] = {
        adapter.id: (adapter.number, []) for adapter in reversed(snapshot.adapters)
    }
    for exam in finished:
        if exam.mix is not None:
            groups.setdefault(exam.mix["hash"], (exam.mix["name"], []))[1].append(exam)
        elif exam.adapter_id in groups:
            groups[exam.adapter_id][1].append(exam)
    rows = []
    for name, exams in groups.values():
        by_strength = tallies(exams)
        best = recommended_strength(by_strength)
        for strength, tally in by_strength.items():
            low, high = tally.interval
            rows.append(
                {
                    "round": name,
                    "strength": f"{strength:g}",
                    "counted": str(tally),
                    "ties": tally.ties,
                    "share": tally.tuned / tally.decided if tally.decided else None,
                    "low": low,
                    "high": high,
                    "recommended": strength == best,
                }
            )
    return rows


def _empty(snapshot: StoreSnapshot) -> dict[str, str]:
    """The text before the first exam, and what to do next."""
    if not snapshot.adapters:
        return {
            "title": _("Nothing is tuned yet"),
            "text": _(
                "When the first round is done, you find out here whether you really prefer it."
            ),
            "action": _("Pick pictures"),
            "tab": "prefer",
        }
    return {
        "title": _("Is it really better?"),
        "text": _(
            "You see pairs, one drawn by the base model and one by the tuned one, and choose "
            "without knowing which is which. At the end you learn how often you chose the tuned "
            "one."
        ),
    }
