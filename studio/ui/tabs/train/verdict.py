"""Go on, stop or pick more: one picture and one sentence, above all rounds."""

from __future__ import annotations

from html import escape

import gradio as gr

from studio.messages import N_, _, told
from studio.settings import FEWEST_PICKS
from studio.statistics import Tally, recommended_strength, tallies
from studio.ui.curves import Interval, interval_chart
from studio.ui.page import Page
from studio.ui.snapshot import FINISHED, StoreSnapshot
from studio.verdict import ENOUGH_REPEATED, Evidence, Guesses, judge

HEADINGS = {"pick": N_("Pick more"), "go_on": N_("Go on"), "stop": N_("Stop")}


def build(page: Page) -> None:
    card = gr.HTML(apply_default_css=False, elem_id="verdict")
    page.show(lambda snapshot: {card: verdict_card(snapshot)}, [card])


def verdict_card(snapshot: StoreSnapshot) -> str:
    known = evidence(snapshot)
    verdict = judge(known)
    line = _(
        "<b>{heading}:</b> {reason}",
        heading=_(HEADINGS[verdict.advice]),
        reason=escape(told(verdict.reason)),
    )
    return (
        f"<div class='verdict card' data-advice='{verdict.advice}'>{_picture(known)}"
        f"<p>{line}</p></div>"
    )


def evidence(snapshot: StoreSnapshot) -> Evidence:
    """What the store knows of the open session."""
    last = snapshot.rounds[-1] if snapshot.rounds else None
    current = snapshot.current_adapter
    settings, counts = snapshot.settings, snapshot.counts
    needed = max(settings.round_every, FEWEST_PICKS) if settings.live else FEWEST_PICKS
    return Evidence(
        finished=sum(round_.state in FINISHED for round_ in snapshot.rounds),
        rounds=[Guesses(*one) for one in snapshot.agreements],
        agreed=snapshot.consistency.agreed,
        repeated=snapshot.consistency.repeated,
        exam=_exam(snapshot),
        held_back=last.message if last and last.state == "held_back" else "",
        diversity=current.checks.get("diversity") if current else None,
        missing=needed - counts.usable,
    )


def _exam(snapshot: StoreSnapshot) -> Tally:
    """Of the adapter in use, at the strength where it won most surely, or else at all of them."""
    if snapshot.current_adapter is None:
        return Tally(0, 0)
    exams = snapshot.store.exams(snapshot.session.id, snapshot.current_adapter.id)
    results = tallies(exams)
    best = recommended_strength(results)
    return results[best] if best is not None else sum(results.values(), Tally(0, 0))


def _picture(known: Evidence) -> str:
    """What the rounds guess, with intervals, beside a coin and the artist's own consistency."""
    rows = [
        Interval(_("Round {number}", number=one.number), *one.interval, share=one.share)
        for one in known.rounds
    ] or [Interval(_("Not asked"))]
    marks = {_("coin"): 0.5}
    if known.repeated >= ENOUGH_REPEATED:
        marks[_("you")] = known.agreed / known.repeated
    said = "; ".join(
        _("round {number} guesses {guesses}", number=one.number, guesses=told(str(one)))
        for one in known.rounds
    )
    about = _("Picks kept out of the lessons: {said}", said=said or _("none asked yet"))
    return interval_chart(rows, marks, about)
