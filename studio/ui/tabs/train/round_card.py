"""The current round: what it is doing, and the buttons that start, pause and stop it."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import gradio as gr

from studio.messages import _, together, told
from studio.settings import FEWEST_LONE, FEWEST_PICKS
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
        gentler = gr.Button(
            _("Learn again, more gently"), variant="primary", elem_id="round-gentler"
        )
        start = gr.Button(_("Start a round"), variant="primary", elem_id="round-start")
        pause = gr.Button(_("Pause"), elem_id="round-pause")
        resume = gr.Button(_("Go on"), variant="primary", elem_id="round-resume")
        stop = gr.Button(_("Stop"), variant="stop", elem_id="round-stop")

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
        return _(
            "It learns again, set to “{strength}”.",
            strength=_(strength_of(saved.settings.training)),
        )

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
        text = together(text, told(snapshot.rounds[-1].message.removeprefix("Done.").strip()))
    return _card(title, text)


def _open_round(snapshot: StoreSnapshot, round_: Round) -> str:
    picks = words.picks(len(round_.train_pick_ids))
    if round_.favourite_ids:
        favourites = words.favourites(len(round_.favourite_ids))
        both = _("{picks} and {favourites}", picks=picks, favourites=favourites)
        picks = both if round_.train_pick_ids else favourites
    share = words.share_done(round_, snapshot.worker)
    match round_.state:
        case "running":
            title = _("Round {number} is learning from {picks}", number=round_.number, picks=picks)
            text = _(
                "{line}. Go on picking meanwhile.",
                line=words.learning_line(round_, snapshot.worker),
            )
            if has_learned(round_):
                title = _(
                    "Round {number} has learned from {picks}", number=round_.number, picks=picks
                )
                text = together(text, _("Stop keeps what it learned, and leaves the rest out."))
            text = together(text, told(round_.message))
        case "paused":
            title = _(
                "Round {number} is paused at {share}",
                number=round_.number,
                share=words.per_cent(share),
            )
            text = _("It goes on from here whenever you like, after a restart too.")
        case "stopping":
            title = _("Round {number} is stopping", number=round_.number)
            text = _("It finishes the step it is at.")
        case _:
            title = _("Round {number} is about to begin", number=round_.number)
            text = _("It learns from {picks}, as soon as the painter is free.", picks=picks)
    return _card(title, text, share, _("Round {number}", number=round_.number))


def _no_round(snapshot: StoreSnapshot) -> tuple[str, str]:
    """(title, text) while no round is open."""
    counts, last = snapshot.counts, snapshot.rounds[-1] if snapshot.rounds else None
    if last is not None and last.state == "failed":
        return _("Round {number} could not be finished", number=last.number), told(last.message)
    if last is not None and last.state == "held_back":
        return _("Round {number} went too far", number=last.number), told(last.message)
    missing = _missing_picks(snapshot)
    if missing > 0:
        needed = (
            _(
                "A round needs {fewest} picks or more: choose {missing} more on the Prefer tab.",
                fewest=FEWEST_PICKS,
                missing=missing,
            )
            if counts.usable
            else _(
                "A round needs {fewest} picks or more: choose a few on the Prefer tab.",
                fewest=FEWEST_PICKS,
            )
        )
        taste = _("With 16 the taste begins to show.")
        return _("Pick first, then it learns"), together(needed, taste)
    alone = _favourites_alone(snapshot)
    if alone and not _has_learned(snapshot, alone):
        favourites = words.favourites(len(alone))
        return _("It can learn from your {favourites}", favourites=favourites), _(
            "There are no picks yet, so each favourite is held against the pictures that were "
            "shown beside it. Picks of the better picture say more."
        )
    if withdrawn := _withdrawn(snapshot):
        picks = words.picks(withdrawn)
        return (
            _("You took back {picks} that it learned from", picks=picks),
            _("Start a round, and it learns again without them. No round is lost by that."),
        )
    fresh = words.new_picks(counts.new)
    if last is not None and last.state == "stopped":
        return _("Round {number} was stopped", number=last.number), _(
            "Nothing was changed. {fresh} wait for a round.", fresh=fresh
        )
    if snapshot.current_adapter is None and not snapshot.adapters:
        return _("Ready for the first round"), _(
            "{picks} to learn from.", picks=_to_learn_from(snapshot)
        )
    if not counts.new:
        return _("Everything you picked is learned"), _(
            "Pick more, and the next round goes further."
        )
    return _("{fresh} since the last round", fresh=fresh), _(
        "A round learns from all your picks, old and new."
    )


def _favourites_alone(snapshot: StoreSnapshot) -> frozenset[str]:
    """The ids of favourites that a round would learn from alone; none if it has picks, or if they
    are too few."""
    if snapshot.lone.are_enough or snapshot.counts.usable >= FEWEST_PICKS:
        return frozenset()
    found = snapshot.store.lone_pictures(snapshot.session.id).favourites
    return frozenset(one.id for one in found) if len(found) >= FEWEST_LONE else frozenset()


def _has_learned(snapshot: StoreSnapshot, favourites: frozenset[str]) -> bool:
    """Whether the newest adapter is from the same favourites."""
    done = [round_ for round_ in snapshot.rounds if round_.state == "done"]
    return bool(done) and favourites == set(done[-1].favourite_ids)


def _missing_picks(snapshot: StoreSnapshot) -> int:
    """How many picks of left or right a round lacks."""
    if snapshot.lone.are_enough or _favourites_alone(snapshot):
        return 0
    return FEWEST_PICKS - snapshot.counts.usable


def _to_learn_from(snapshot: StoreSnapshot) -> str:
    picks = words.picks(snapshot.counts.usable)
    if not snapshot.lone.are_enough:
        return picks
    good, bad = words.good_and_bad(len(snapshot.lone.favourites), len(snapshot.lone.bad))
    return _("{picks}, {good} and {bad}", picks=picks, good=good, bad=bad)


def _card(title: str, text: str, share: float | None = None, label: str = "") -> str:
    bar = "" if share is None else progress_bar(share, label)
    return f"<h2>{escape(title)}</h2>{bar}<p>{escape(text)}</p>"


def _withdrawn(snapshot: StoreSnapshot) -> int:
    """Number of picks that the current adapter learned from and that were taken back since."""
    adapter = snapshot.current_adapter
    learned = (one for one in snapshot.rounds if adapter and one.id == adapter.round_id)
    return sum(snapshot.store.withdrawn(round_) for round_ in learned)
