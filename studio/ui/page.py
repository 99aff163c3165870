"""What every tab shares: one look at the store, the way events are heard, and what is shown again.

No state lives here. A `Look` is read from the store; each tab turns it into the values of its
components; a poll sends those values that are not what this browser tab was sent before. What the
artist does is heard by a handler that changes the store, and the same look is taken again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import gradio as gr

from studio.settings import SessionSettings, SettingsError
from studio.store import Store, StoreError
from studio.store.rows import (
    OPEN_ROUND_STATES,
    Adapter,
    Consistency,
    Export,
    Job,
    KnownModel,
    Metric,
    PickCounts,
    Round,
    Session,
    WorkerStatus,
)
from studio.ui import words
from studio.ui.starter_pack import first_settings

log = logging.getLogger("studio.web")

Values = dict[Any, Any]  # component -> value

DIRECT = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


class Look:
    """The store at one moment, as far as somebody asks; each thing is read at most once."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @cached_property
    def session(self) -> Session:
        """The open session: the same in every browser tab."""
        return open_session(self.store)

    @property
    def settings(self) -> SessionSettings:
        return self.session.settings

    @cached_property
    def sessions(self) -> list[Session]:
        return list(self.store.sessions())

    @cached_property
    def counts(self) -> PickCounts:
        return self.store.pick_counts(self.session.id)

    @cached_property
    def consistency(self) -> Consistency:
        return self.store.consistency(self.session.id)

    @cached_property
    def withdrawn(self) -> int:
        """Picks that the adapter in use learned from, and that were taken back since."""
        if self.current_adapter is None:
            return 0
        of = self.current_adapter.round_id
        return sum(self.store.withdrawn(round_) for round_ in self.rounds if round_.id == of)

    @cached_property
    def worker(self) -> WorkerStatus | None:
        return self.store.worker_status()

    @cached_property
    def rounds(self) -> list[Round]:
        return sorted(self.store.rounds(self.session.id), key=lambda r: r.number)

    @cached_property
    def newest_round(self) -> Round | None:
        return self.store.newest_round(self.session.id)

    @property
    def open_round(self) -> Round | None:
        newest = self.newest_round
        return newest if newest is not None and newest.state in OPEN_ROUND_STATES else None

    @cached_property
    def metrics(self) -> list[Metric]:
        """Of the newest round."""
        return list(self.store.metrics(self.newest_round.id)) if self.newest_round else []

    @property
    def agreement(self) -> tuple[int, int] | None:
        """Of the newest round: with how many held-out picks it agrees, and of how many."""
        name = "held_out_agreement"
        shares = [m.values[name] for m in self.metrics if name in m.values]
        asked = len(self.newest_round.held_out_pick_ids) if self.newest_round else 0
        return (round(shares[-1] * asked), asked) if shares else None

    @cached_property
    def adapters(self) -> list[Adapter]:
        return sorted(self.store.adapters(self.session.id), key=lambda a: a.number)

    @cached_property
    def current_adapter(self) -> Adapter | None:
        current = self.session.current_adapter_id
        return next((a for a in self.adapters if a.id == current), None)

    @cached_property
    def exports(self) -> list[Export]:
        """The newest first."""
        return list(self.store.exports(self.session.id))

    @cached_property
    def model(self) -> KnownModel | None:
        """What is known of the session's base model; None until it was looked at."""
        return self.store.known_model(self.settings.base_model)

    @cached_property
    def library(self) -> list[KnownModel]:
        """All models that can be chosen, by name."""
        return self.store.usable_models()

    @cached_property
    def worker_line(self) -> tuple[str, str]:
        return words.worker_line(self.worker, self.open_round, self.metrics)

    def newest_job(self, kind: str) -> Job | None:
        jobs = self.store.jobs(self.session.id, kind=kind, limit=1)
        return jobs[0] if jobs else None


def open_session(store: Store) -> Session:
    """The session that is open; in a new home a first one, with which one can label at once."""
    session_id = store.last_session_id()
    return store.session(session_id) if session_id else begin_session(store, "First session")


def begin_session(store: Store, name: str) -> Session:
    """A session with prompts to begin with, open, and its first pictures on their way."""
    session = store.create_session(name=name, settings=first_settings())
    store.set_last_session(session.id)
    request_preview(store, session)
    return session


def request_preview(store: Store, session: Session) -> None:
    """Ask the worker for the shown prompts now, before the pairs."""
    prompts = list(session.settings.shown_prompts)
    payload = {"prompts": prompts, "adapter_id": session.current_adapter_id}
    if prompts:
        store.add_job(session.id, "preview", payload)


@dataclass
class Page:
    """The page being built: its store, its shared components, and what each tab shows."""

    store: Store
    notice: gr.HTML
    shown_session: gr.State  # the session whose settings the forms of this browser tab show
    sent: gr.State  # what this browser tab was sent last: component id -> digest
    _views: list[Callable[[Look], Values]] = field(default_factory=list)
    _late: list[Callable[[Look], Values]] = field(default_factory=list)
    _forms: list[Callable[[Look], Values]] = field(default_factory=list)
    _view_components: list[Any] = field(default_factory=list)
    _form_components: list[Any] = field(default_factory=list)
    _pending: list[Callable[[], None]] = field(default_factory=list)

    def tries(self, call: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
        """The call's result and no sentence, or nothing and a sentence that says why."""
        try:
            return call(*arguments), ""
        except (StoreError, SettingsError) as error:
            return None, str(error)
        except Exception:
            log.exception("in %s", call)
            return None, self.went_wrong

    @property
    def went_wrong(self) -> str:
        """What is said when nobody foresaw it."""
        where = self.store.home / "logs" / "web.log"
        return f"Something went wrong. Your picks and pictures are kept; the log is at {where}."

    def shows(
        self, view: Callable[[Look], Values], components: Iterable[Any], *, late: bool = False
    ) -> None:
        """`components` always show what `view` makes of the store.

        `late`: after the other views, whose reading shows which rows are damaged.
        """
        self._views.append(view)
        if late:
            self._late.append(view)
        self._view_components += components

    def fills(self, form: Callable[[Look], Values], components: Iterable[Any]) -> None:
        """`components` are filled in when a session is opened, and then belong to the artist."""
        self._forms.append(form)
        self._form_components += components

    def hears(
        self,
        listener: Callable[..., Any],
        handler: Callable[..., Any],
        inputs: Iterable[Any] = (),
        outputs: Iterable[Any] = (),
        refill: bool = False,
        with_event: bool = False,
        **options: Any,
    ) -> None:
        """On an event call `handler(session, *values)`, then show the store as it is afterwards.

        The handler returns {component: value} for the `outputs` that change, a sentence for the
        notice, both as a pair, or nothing. `with_event` hands it the event's data as its last
        argument; `refill` fills the forms in again. Wired up by `finish`, when all that is shown is
        known.
        """
        outputs = list(outputs)

        def heard(session_id: str, sent: dict[str, str], *values: Any) -> Values:
            if not session_id:  # before the first look, what the forms hold is nobody's
                return {self.notice: notice("bad", "The page was still loading. Try again.")}
            # What a form says belongs to the session it shows, whatever is open by now.
            shown, problem = self.tries(self.store.session, session_id)
            result = None
            if shown is not None:
                result, problem = self.tries(handler, shown, *values)
            changes, said = result if isinstance(result, tuple) else (result, result)
            answer: Values = dict(changes) if isinstance(changes, dict) else {}
            if problem:
                answer[self.notice] = notice("bad", problem)
            else:  # what went wrong before is put right, or no longer of interest
                good = notice("good", said if isinstance(said, str) else "")
                answer.setdefault(self.notice, good)
            return answer | self._changed(session_id, sent, refill=refill and not problem)

        # Gradio hands an event's data to the parameter that is annotated so.
        def heard_event(
            event: gr.EventData, session_id: str, sent: dict[str, str], *values: Any
        ) -> Values:
            return heard(session_id, sent, *values, event)

        def wire() -> None:
            listener(
                heard_event if with_event else heard,
                inputs=[self.shown_session, self.sent, *inputs],
                outputs=[*self._outputs(), *outputs],
                **{**DIRECT, **options},
            )

        self._pending.append(wire)

    def finish(self, demo: gr.Blocks, every_s: float = 1.0) -> None:
        """Wire up every event, the first look and the poll."""
        for wire in self._pending:
            wire()
        looks = {"inputs": [self.shown_session, self.sent], "outputs": self._outputs(), **DIRECT}
        # The poll waits for the first look: of two looks on their way at once, the later would fill
        # the forms in over what the artist typed after the first.
        timer = gr.Timer(every_s, active=False)
        first_look = demo.load(self._poll, **looks)
        first_look.then(lambda: gr.Timer(active=True), outputs=timer, **DIRECT)
        timer.tick(self._poll, trigger_mode="once", **looks)

    def _outputs(self) -> list[Any]:
        return [
            self.shown_session,
            self.sent,
            self.notice,
            *self._form_components,
            *self._view_components,
        ]

    def _poll(self, session_id: str, sent: dict[str, str]) -> Any:
        """What changed since this browser tab last asked; usually nothing."""

        def look() -> Values | None:
            # A worker that falls silent changes nothing in the store, so it is looked at too.
            silent = words.is_silent(self.store.worker_status())
            seen = f"{self.store.version()} {silent}"
            if sent.get("seen") == seen:
                return None
            return self._changed(session_id, sent | {"seen": seen})

        answer, problem = self.tries(look)
        if problem and problem != sent.get("problem", ""):
            # Without "seen" all is looked at again, which takes it back when it is over.
            unseen = {name: digest for name, digest in sent.items() if name != "seen"}
            said = {self.notice: notice("bad", problem), self.sent: unseen | {"problem": problem}}
            answer = said
        return answer or gr.skip()

    def _changed(self, session_id: str, sent: dict[str, str], refill: bool = False) -> Values:
        """The values this browser tab has not been sent yet.

        A view that fails is left as it was, and does not keep the others from being shown.
        """
        look = Look(self.store)
        answer: Values = {}
        problem = ""
        if refill or look.session.id != session_id:
            for form in self._forms:
                values, failed = self.tries(form, look)
                problem = problem or failed
                answer |= values or {}
            answer[self.shown_session] = look.session.id
        digests = dict(sent)
        for view in sorted(self._views, key=self._late.__contains__):
            values, failed = self.tries(view, look)
            problem = problem or failed
            for component, value in (values or {}).items():
                digest = _digest(value)
                if digests.get(str(component._id)) != digest:
                    digests[str(component._id)] = digest
                    answer[component] = value
        if problem != sent.get("problem", ""):  # said once, and taken back when it is over
            answer[self.notice] = notice("bad", problem)
            digests["problem"] = problem
        answer[self.sent] = digests
        return answer


def notice(tone: str, text: str) -> dict[str, str]:
    """What the notice area shows; the id lets the same sentence be said twice."""
    return {"tone": tone, "text": text, "id": uuid.uuid4().hex}


def _digest(value: Any) -> str:
    encoded = json.dumps(value, sort_keys=True, default=repr).encode()
    return hashlib.blake2b(encoded, digest_size=12).hexdigest()
