"""States of a studio that its tabs are looked at in, and what the look must not find."""

from __future__ import annotations

from studio.store import Session, Store
from studio.store.status import RoundProgress
from tests.browser import seed

CUT_TABS = """() => [...document.querySelectorAll("[role=tab]")].filter((tab) => {
  const { left, right } = tab.getBoundingClientRect();
  return left < 0 || right > innerWidth || tab.scrollWidth > tab.clientWidth + 1;
}).map((tab) => tab.innerText)"""


def new(store: Store, session: Session) -> None:
    """Nothing has happened yet: the session that a first visitor gets is made by the page."""
    store.delete_session(session.id)


def full(store: Store, session: Session) -> None:
    """Two rounds have been learned."""
    seed.pick_all(store, session)
    seed.learn(store, session)
    seed.add_pairs(store, session, 10)
    seed.pick_all(store, session)
    seed.learn(store, session)
    seed.add_pairs(store, session, 6)


def working(store: Store, session: Session) -> None:
    """A round is being learned, and no pair waits."""
    seed.pick_all(store, session)
    seed.learn(store, session, updates=20)
    [round_] = store.rounds(session.id)
    at = RoundProgress(round_.id, "Learning, 20 of 26 updates", 0.6, 100.0)
    seed.say(store, "training", "Learning.", at)


def failing(store: Store, session: Session) -> None:
    """A round was held back, and the worker says what is wrong."""
    seed.pick_all(store, session)
    lost = "its pictures have lost their detail"
    sentence = f"Held back, because {lost}. The adapter in use before stays in use."
    seed.learn(store, session, held_back=sentence)
    seed.say(store, "error", "my-model.safetensors could not be loaded: it is damaged.")
