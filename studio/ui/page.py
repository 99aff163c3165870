"""The page that every tab builds on: its components, their events, and the poll.

The page keeps no state of its own. A tab's views turn a `StoreSnapshot` into the values of its
components. A handler of an event changes the store, and then the views are asked again. A poll
does the same once a second. Only values that differ from those last sent to a browser tab are sent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from studio.messages import _, told
from studio.settings import SettingsError
from studio.store import Store, StoreError
from studio.ui import words
from studio.ui.snapshot import StoreSnapshot

log = logging.getLogger("studio.web")

Values = dict[Any, Any]  # component -> value
View = Callable[[StoreSnapshot], Values]

DIRECT = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


@dataclass
class Page:
    """The page being built: its store, its shared components, and the views of each tab."""

    store: Store
    notice: gr.HTML
    shown_session: gr.State  # the session whose settings the forms of this browser tab show
    sent: gr.State  # what this browser tab was sent last: component id -> digest
    _views: list[View] = field(default_factory=list)
    _late_views: list[View] = field(default_factory=list)
    _forms: list[View] = field(default_factory=list)
    _view_components: list[Any] = field(default_factory=list)
    _form_components: list[Any] = field(default_factory=list)
    _pending: list[Callable[[], None]] = field(default_factory=list)

    def attempt(self, call: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
        """(result, "") of the call, or (None, sentence) if it fails."""
        try:
            return call(*arguments), ""
        except (StoreError, SettingsError) as error:
            return None, told(str(error))
        except Exception:
            log.exception("in %s", call)
            return None, self.went_wrong

    @property
    def went_wrong(self) -> str:
        """The sentence for an unexpected error."""
        path = self.store.home / "logs" / "web.log"
        return _(
            "Something went wrong. Your picks and pictures are kept; the log is at {path}.",
            path=path,
        )

    def show(self, view: View, components: Iterable[Any], *, late: bool = False) -> None:
        """Keep `components` at the values that `view` returns.

        A `late` view comes after the others: their reading shows which rows are damaged.
        """
        (self._late_views if late else self._views).append(view)
        self._view_components += components

    def fill(self, form: View, components: Iterable[Any]) -> None:
        """Fill `components` in when a session is opened; from then on the artist edits them."""
        self._forms.append(form)
        self._form_components += components

    def on(
        self,
        event: Callable[..., Any],
        handler: Callable[..., Any],
        inputs: Iterable[Any] = (),
        outputs: Iterable[Any] = (),
        refill: bool = False,
        with_event: bool = False,
        **options: Any,
    ) -> None:
        """On an event call `handler(session, *values)`, then show the store as it is afterwards.

        The handler returns {component: value} for the `outputs` that change, a sentence for the
        notice, both as a pair, or None. `with_event` passes the event's data as the last argument;
        `refill` fills the forms in again. The event is connected by `finish`, when all views are
        known.
        """
        outputs = list(outputs)

        def handle(session_id: str, sent: dict[str, str], *values: Any) -> Values:
            if not session_id:  # before the first poll the forms show no session
                return {self.notice: notice("bad", _("The page was still loading. Try again."))}
            # The values of a form belong to the session it shows, even if another is open by now.
            shown, problem = self.attempt(self.store.session, session_id)
            result = None
            if shown is not None:
                result, problem = self.attempt(handler, shown, *values)
            changes, sentence = result if isinstance(result, tuple) else (result, result)
            answer: Values = dict(changes) if isinstance(changes, dict) else {}
            if problem:
                answer[self.notice] = notice("bad", problem)
            else:  # an empty notice takes an earlier problem away
                good = notice("good", sentence if isinstance(sentence, str) else "")
                answer.setdefault(self.notice, good)
            return answer | self.changed(session_id, sent, refill=refill and not problem)

        # Gradio passes an event's data to the parameter with this annotation.
        def handle_with_event(
            event: gr.EventData, session_id: str, sent: dict[str, str], *values: Any
        ) -> Values:
            return handle(session_id, sent, *values, event)

        def connect() -> None:
            event(
                handle_with_event if with_event else handle,
                inputs=[self.shown_session, self.sent, *inputs],
                outputs=[*self._outputs(), *outputs],
                **{**DIRECT, **options},
            )

        self._pending.append(connect)

    def finish(self, demo: gr.Blocks, every_s: float = 1.0) -> None:
        """Connect every event, and the poll."""
        for connect in self._pending:
            connect()
        poll = {"inputs": [self.shown_session, self.sent], "outputs": self._outputs(), **DIRECT}
        # The timer starts after the first poll. Of two first polls at once, the later one would
        # fill the forms in again, over what the artist has typed since the earlier one.
        timer = gr.Timer(every_s, active=False)
        first = demo.load(self._poll, **poll)
        first.then(lambda: gr.Timer(active=True), outputs=timer, **DIRECT)
        timer.tick(self._poll, trigger_mode="once", **poll)

    def _outputs(self) -> list[Any]:
        return [
            self.shown_session,
            self.sent,
            self.notice,
            *self._form_components,
            *self._view_components,
        ]

    def _poll(self, session_id: str, sent: dict[str, str]) -> Any:
        """Whatever changed since this browser tab last asked; usually nothing."""

        def changes() -> Values | None:
            # A worker that falls silent leaves the store as it is, so it is checked too.
            silent = words.is_silent(self.store.worker_status())
            seen = f"{self.store.version()} {silent}"
            if sent.get("seen") == seen:
                return None
            return self.changed(session_id, sent | {"seen": seen})

        answer, problem = self.attempt(changes)
        if problem and problem != sent.get("problem", ""):
            # Without "seen" the next poll reads everything again and can take the notice away.
            unseen = {name: digest for name, digest in sent.items() if name != "seen"}
            answer = {self.notice: notice("bad", problem), self.sent: unseen | {"problem": problem}}
        return answer or gr.skip()

    def changed(self, session_id: str, sent: dict[str, str], refill: bool = False) -> Values:
        """The values that this browser tab has not been sent yet.

        If a view fails, its components keep their values and the other views are still shown.
        """
        snapshot = StoreSnapshot(self.store)
        answer: Values = {}
        problem = ""
        if refill or snapshot.session.id != session_id:
            for form in self._forms:
                values, failed = self.attempt(form, snapshot)
                problem = problem or failed
                answer |= values or {}
            answer[self.shown_session] = snapshot.session.id
        digests = dict(sent)
        for view in (*self._views, *self._late_views):
            values, failed = self.attempt(view, snapshot)
            problem = problem or failed
            for component, value in (values or {}).items():
                digest = _digest(value)
                if digests.get(str(component._id)) != digest:
                    digests[str(component._id)] = digest
                    answer[component] = value
        if problem != sent.get("problem", ""):  # shown once, and taken away when it is over
            answer[self.notice] = notice("bad", problem)
            digests["problem"] = problem
        answer[self.sent] = digests
        return answer


def notice(tone: str, text: str) -> dict[str, str]:
    """A value of the notice area; its id lets the same sentence appear twice."""
    return {"tone": tone, "text": text, "id": uuid.uuid4().hex}


def _digest(value: Any) -> str:
    encoded = json.dumps(value, sort_keys=True, default=repr).encode()
    return hashlib.blake2b(encoded, digest_size=12).hexdigest()
