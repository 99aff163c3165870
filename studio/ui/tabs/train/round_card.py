"""The current round: what it is doing, and the buttons that start, pause and stop it."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import gradio as gr

from studio.settings import FEWEST_PICKS
from studio.store.rounds import has_learned
from studio.store.rows import Round, Session
from studio.ui import words
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.train.learning import can_be_gentler, more_gently, strength_of
from studio.ui.widgets import progress_bar


def build(page: Page) -> None:
    """A card with a heading, a bar and a sentence, and the buttons below it."""
    card = gr.HTML(apply_default_css=False, elem_id="round-card")
    with gr.Row(elem_classes="buttons"):
        gentler = gr.Button("Learn again, more gently", variant="primary", elem_id="round-gentler")
        start = gr.Button("Start a round", variant="primary", elem_id="round-start")
        pause = gr.Button("Pause", elem_id="round-pause")
        resume = gr.Button("Go on", variant="primary", elem_id="round-resume")
        stop = gr.Button("Stop", variant="stop", elem_id="round-stop")

    def view(snapshot: StoreSnapshot) -> Values:
        round_ = snapshot.open_round
        state = round_.state if round_ else ""
        held_back = bool(snapshot.rounds) and snapshot.rounds[-1].state == "held_back"
        offers_gentler = held_back and can_be_gentler(snapshot.settings)
        return {
            card: round_card(snapshot),
            gentler: gr.update(visible=offers_gentler),
            start: gr.update(
                visible=not round_,
                interactive=_missing_picks(snapshot) <= 0,
                variant="secondary" if offers_gentler else "primary",
            ),
            pause: gr.update(visible=state in ("queued", "running")),
            resume: gr.update(visible=state == "paused"),
            stop: gr.update(visible=bool(state), interactive=state != "stopping"),
        }

    page.show(view, [card, start, pause, resume, stop, gentler])
    store = page.store

    def start_round(session: Session) -> None:
        store.request_round(session.id)

    def start_gentler(session: Session) -> str:
        saved = store.change_settings(session.id, more_gently)
        store.request_round(session.id)
        return f"It learns again, set to “{strength_of(saved.settings.training)}”."

    def on_open_round(act: Callable[[str], object]) -> Callable[[Session], None]:
        def handler(session: Session) -> None:
            round_ = StoreSnapshot(store).open_round
            if round_ is not None and round_.session_id == session.id:
                act(round_.id)

        return handler

    page.on(start.click, start_round)
    page.on(gentler.click, start_gentler, refill=True)
    page.on(pause.click, on_open_round(store.pause_round))
    page.on(resume.click, on_open_round(store.resume_round))
    page.on(stop.click, on_open_round(store.stop_round))


def round_card(snapshot: StoreSnapshot) -> str:
    """The open round with its progress, or how to get one started."""
    if snapshot.open_round is not None:
        return _open_round(snapshot, snapshot.open_round)
    title, text = _no_round(snapshot)
    if snapshot.rounds and snapshot.rounds[-1].state == "done":
        text += snapshot.rounds[-1].message.removeprefix("Done.")
    return _card(title, text)


def _open_round(snapshot: StoreSnapshot, round_: Round) -> str:
    picks = words.count(len(round_.train_pick_ids), "pick")
    if round_.favourite_ids:
        favourites = words.count(len(round_.favourite_ids), "favourite")
        picks = f"{picks} and {favourites}" if round_.train_pick_ids else favourites
    share = words.share_done(round_, snapshot.worker)
    match round_.state:
        case "running":
            title = f"Round {round_.number} is learning from {picks}"
            text = f"{words.learning_line(round_, snapshot.worker)}. Go on picking meanwhile."
            if has_learned(round_):
                title = f"Round {round_.number} has learned from {picks}"
                text += " Stop keeps what it learned, and leaves the rest out."
            if round_.message:
                text += f" {round_.message}"
        case "paused":
            title = f"Round {round_.number} is paused at {words.per_cent(share)}"
            text = "It goes on from here whenever you like, after a restart too."
        case "stopping":
            title = f"Round {round_.number} is stopping"
            text = "It finishes the step it is at."
        case _:
            title = f"Round {round_.number} is about to begin"
            text = f"It learns from {picks}, as soon as the painter is free."
    return _card(title, text, share, f"Round {round_.number}")


def _no_round(snapshot: StoreSnapshot) -> tuple[str, str]:
    """(title, text) while no round is open."""
    counts, last = snapshot.counts, snapshot.rounds[-1] if snapshot.rounds else None
    if last is not None and last.state == "failed":
        return f"Round {last.number} could not be finished", last.message
    if last is not None and last.state == "held_back":
        return f"Round {last.number} went too far", last.message
    missing = _missing_picks(snapshot)
    if missing > 0:
        more = f"{missing} more" if counts.usable else "a few"
        return (
            "Pick first, then it learns",
            f"A round needs {FEWEST_PICKS} picks or more: choose {more} on the Prefer tab. "
            "With 16 the taste begins to show.",
        )
    if snapshot.favourites_alone and not _has_learned_favourites(snapshot):
        favourites = words.count(len(snapshot.favourites_alone), "favourite")
        return (
            f"It can learn from your {favourites}",
            "There are no picks yet, so each favourite is held against the pictures that were "
            "shown beside it. Picks of the better picture say more.",
        )
    if snapshot.withdrawn:
        picks = words.count(snapshot.withdrawn, "pick")
        return (
            f"You took back {picks} that it learned from",
            "Start a round, and it learns again without them. No round is lost by that.",
        )
    fresh = words.count(counts.new, "new pick")
    if last is not None and last.state == "stopped":
        return f"Round {last.number} was stopped", f"Nothing was changed. {fresh} wait for a round."
    if snapshot.current_adapter is None and not snapshot.adapters:
        return "Ready for the first round", f"{_to_learn_from(snapshot)} to learn from."
    if not counts.new:
        return "Everything you picked is learned", "Pick more, and the next round goes further."
    return f"{fresh} since the last round", "A round learns from all your picks, old and new."


def _has_learned_favourites(snapshot: StoreSnapshot) -> bool:
    """Whether the newest adapter is from the same favourites."""
    done = [round_ for round_ in snapshot.rounds if round_.state == "done"]
    return bool(done) and snapshot.favourites_alone == set(done[-1].favourite_ids)


def _missing_picks(snapshot: StoreSnapshot) -> int:
    """How many picks of left or right a round lacks."""
    if snapshot.lone.are_enough or snapshot.favourites_alone:
        return 0
    return FEWEST_PICKS - snapshot.counts.usable


def _to_learn_from(snapshot: StoreSnapshot) -> str:
    picks = words.count(snapshot.counts.usable, "pick")
    if not snapshot.lone.are_enough:
        return picks
    good, bad = words.good_and_bad(len(snapshot.lone.favourites), len(snapshot.lone.bad))
    return f"{picks}, {good} and {bad}"


def _card(title: str, text: str, share: float | None = None, label: str = "") -> str:
    bar = "" if share is None else progress_bar(share, label)
    return f"<h2>{escape(title)}</h2>{bar}<p>{escape(text)}</p>"
