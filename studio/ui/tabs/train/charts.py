"""The curves of the newest round."""

from __future__ import annotations

import gradio as gr

from studio.messages import _
from studio.store.rows import Metric, Round
from studio.ui import curves, words
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot


def build(page: Page) -> None:
    """Three curves, and two more in a part that opens."""
    charts = gr.HTML(apply_default_css=False, elem_id="charts")
    with gr.Accordion(_("The loss, and other details"), open=False, elem_id="loss"):
        details = gr.HTML(apply_default_css=False)

    def view(snapshot: StoreSnapshot) -> Values:
        round_ = snapshot.rounds[-1] if snapshot.rounds else None
        metrics = snapshot.metrics
        if round_ is None or not metrics:
            none = _("Curves appear with the first round.")
            return {charts: "", details: f"<p class='soft'>{none}</p>"}
        return {charts: main_charts(round_, metrics), details: detail_charts(round_, metrics)}

    page.show(view, [charts, details])


def series(metrics: list[Metric], key: str) -> list[tuple[float, float]]:
    """(update, value) wherever it was measured."""
    return [(m.update, m.values[key]) for m in metrics if key in m.values]


def smoothed(points: list[tuple[float, float]], span: int = 5) -> list[tuple[float, float]]:
    """The running mean over `span` points: single batches jump, and the jumps mean nothing."""
    values = [y for _x, y in points]
    means = [
        sum(values[max(0, i - span + 1) : i + 1]) / min(i + 1, span) for i in range(len(values))
    ]
    return [(x, mean) for (x, _y), mean in zip(points, means, strict=True)]


def main_charts(round_: Round, metrics: list[Metric]) -> str:
    """Agreement on held-out picks, accuracy on the learned ones, and the margin."""
    x_max = float(round_.updates_total or 1)
    held_out = len(round_.held_out_pick_ids)
    kept_out = _("picks kept out")
    if held_out:
        kept_out = _("{picks} kept out of the lesson", picks=words.picks(held_out))
    charts = (
        curves.share_chart(
            _("Agrees with you"),
            series(metrics, "held_out_agreement"),
            _(
                "Asked about {kept_out}: how often it would now choose as you did. 50 % is a coin "
                "toss.",
                kept_out=kept_out,
            ),
            x_max,
        ),
        curves.share_chart(
            _("Knows your picks"),
            smoothed(series(metrics, "accuracy")),
            _(
                "Of the picks it learns from, how many it gets right. Near 100 % it has learned "
                "them by heart."
            ),
            x_max,
        ),
        curves.value_chart(
            _("Leaning"),
            smoothed(series(metrics, "margin")),
            _(
                "How far it leans towards what you chose and away from what you passed over. "
                "It should rise, and level off."
            ),
            x_max,
        ),
    )
    title = _("Round {number}, as it learned", number=round_.number)
    return f"<h2 class='section'>{title}</h2><div class='charts'>{''.join(charts)}</div>"


def detail_charts(round_: Round, metrics: list[Metric]) -> str:
    """The loss and the gradient norm, which say little about pictures."""
    x_max = float(round_.updates_total or 1)
    loss = curves.value_chart(
        _("Loss"),
        series(metrics, "loss"),
        _(
            "The number that training lowers. With preferences it hardly moves and says little "
            "about the pictures: look at the strip instead."
        ),
        x_max,
        digits=3,
    )
    gradient = curves.value_chart(
        _("Size of the steps"),
        series(metrics, "grad_norm"),
        _("How hard each lesson pulls. Steady is good; growing without end is not."),
        x_max,
    )
    return f"<div class='charts'>{loss}{gradient}</div>"
