"""Agreement and consistency of the picks, in sentences with their intervals."""

from __future__ import annotations

from html import escape

import gradio as gr

from studio.messages import _, ngettext, together
from studio.statistics import leans, wilson
from studio.store.rows import Consistency
from studio.ui import words
from studio.ui.page import Page
from studio.ui.snapshot import StoreSnapshot

MIN_PICKS_FOR_SIDES = 12  # below that nothing is shown about left and right


def build(page: Page) -> None:
    panel = gr.HTML(apply_default_css=False, elem_id="evidence")
    page.show(lambda snapshot: {panel: evidence(snapshot)}, [panel])


def evidence(snapshot: StoreSnapshot) -> str:
    """All lines for which there are enough picks."""
    lines = [*agreement_lines(snapshot.agreement, own_asked(snapshot))]
    lines += consistency_lines(snapshot.consistency)
    if not lines:
        return ""
    items = "".join(
        f"<li><b>{escape(title)}</b><span>{escape(text)}</span></li>" for title, text in lines
    )
    return f"<h2 class='section'>{_('What is known so far')}</h2><ul class='evidence'>{items}</ul>"


def own_asked(snapshot: StoreSnapshot) -> int:
    """How many of the newest round's held-out picks chose the artist's own art."""
    round_ = snapshot.newest_round
    return snapshot.store.own_picks_among(round_.held_out_pick_ids) if round_ else 0


def agreement_lines(agreement: tuple[int, int] | None, own: int = 0) -> list[tuple[str, str]]:
    """How many held-out picks the newest round predicts. own: those of the artist's own art."""
    if agreement is None:
        return []
    right, asked = agreement
    low, high = wilson(right, asked)
    verdict = (
        _("That is more than chance.")
        if low > 0.5
        else _("That may still be chance: more picks will tell.")
    )
    without_click = ngettext(
        "{number} of these puts your own art before a drawing, without a click.",
        "{number} of these put your own art before a drawing, without a click.",
        own,
    )
    return [
        (
            _(
                "It agrees with {right} of {picks} that it has never seen",
                right=right,
                picks=words.picks(asked),
            ),
            together(
                _(
                    "One pick in five is kept out of the lessons to ask this. With so few, the "
                    "truth lies between {low} and {high}.",
                    low=words.per_cent(low),
                    high=words.per_cent(high),
                ),
                verdict,
                without_click if own else "",
            ),
        )
    ]


def consistency_lines(consistency: Consistency) -> list[tuple[str, str]]:
    """How consistent the artist is, and whether one side is favoured."""
    lines = []
    if consistency.repeated:
        lines.append(
            (
                _(
                    "You chose the same again in {agreed} of {pairs} shown twice",
                    agreed=consistency.agreed,
                    pairs=words.pairs(consistency.repeated),
                ),
                _(
                    "Now and then a pair comes back with its sides swapped. Where you choose "
                    "otherwise, the two were close; no painter can agree with you more often than "
                    "you do."
                ),
            )
        )
    if consistency.picked >= MIN_PICKS_FOR_SIDES:
        lines.append(_side_line(consistency.left, consistency.picked))
    return lines


def _side_line(left: int, picked: int) -> tuple[str, str]:
    is_left = 2 * left >= picked
    share = words.per_cent(max(left, picked - left) / picked)
    title = (
        _("You chose the left picture in {share} of {picked} picks", share=share, picked=picked)
        if is_left
        else _(
            "You chose the right picture in {share} of {picked} picks", share=share, picked=picked
        )
    )
    if not leans(left, picked):
        return title, _(
            "The sides are drawn by lot, so about half is right: you do not favour one."
        )
    return title, (
        _("More often than chance would: do you look at the left one first?")
        if is_left
        else _("More often than chance would: do you look at the right one first?")
    )
