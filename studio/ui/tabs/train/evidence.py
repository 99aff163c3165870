"""Agreement and consistency of the picks, in sentences with their intervals."""

from __future__ import annotations

from html import escape

import gradio as gr

from studio.statistics import leans, wilson
from studio.store.rows import Habits
from studio.ui import words
from studio.ui.page import Page
from studio.ui.snapshot import StoreSnapshot

MIN_PICKS_FOR_SIDES = 12  # below that nothing is shown about left and right


def build(page: Page) -> None:
    panel = gr.HTML(apply_default_css=False, elem_id="evidence")
    page.show(lambda snapshot: {panel: evidence(snapshot)}, [panel])


def evidence(snapshot: StoreSnapshot) -> str:
    """All lines for which there are enough picks."""
    lines = [*agreement_lines(snapshot.agreement), *habit_lines(snapshot.habits)]
    if not lines:
        return ""
    items = "".join(
        f"<li><b>{escape(title)}</b><span>{escape(text)}</span></li>" for title, text in lines
    )
    return f"<h2 class='section'>What is known so far</h2><ul class='evidence'>{items}</ul>"


def agreement_lines(agreement: tuple[int, int] | None) -> list[tuple[str, str]]:
    """How many held-out picks the newest round predicts."""
    if agreement is None:
        return []
    right, asked = agreement
    low, high = wilson(right, asked)
    verdict = (
        "That is more than chance."
        if low > 0.5
        else "That may still be chance: more picks will tell."
    )
    return [
        (
            f"It agrees with {right} of {words.count(asked, 'pick')} that it has never seen",
            f"One pick in five is kept out of the lessons to ask this. With so few, the truth lies "
            f"between {words.per_cent(low)} and {words.per_cent(high)}. {verdict}",
        )
    ]


def habit_lines(habits: Habits) -> list[tuple[str, str]]:
    """How consistent the artist is, and whether one side is favoured."""
    lines = []
    if habits.asked_again:
        lines.append(
            (
                f"You chose the same again in {habits.same_again} of "
                f"{words.count(habits.asked_again, 'pair')} shown twice",
                "Now and then a pair comes back with its sides swapped. Where you choose "
                "otherwise, the two were close; no painter can agree with you more often than "
                "you do.",
            )
        )
    if habits.picked >= MIN_PICKS_FOR_SIDES:
        left, side = habits.left, "left" if 2 * habits.left >= habits.picked else "right"
        share = words.per_cent(max(left, habits.picked - left) / habits.picked)
        lines.append(
            (
                f"You chose the {side} picture in {share} of {habits.picked} picks",
                f"More often than chance would: do you look at the {side} one first?"
                if leans(left, habits.picked)
                else "The sides are drawn by lot, so about half is right: you do not favour one.",
            )
        )
    return lines
