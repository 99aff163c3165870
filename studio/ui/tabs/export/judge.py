"""A judge: a function that picks in the artist's place, and whose picks can be taken back."""

from __future__ import annotations

import re
from html import escape

import gradio as gr

from studio.judges import BUILT_IN
from studio.messages import N_, _, ngettext, told
from studio.paths import typed
from studio.settings import SettingsError
from studio.store.rows import Job, Session
from studio.ui.jobs import is_open, words_of
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot
from studio.ui.widgets import click_events

MOST_PICKS = 1000  # at a time
OWN = "own"  # the value of the choice of a file
ABOUT = {
    "compressible": N_("Calm: takes few bytes as a JPEG"),
    "incompressible": N_("Busy: takes many bytes as a JPEG"),
}
NOT_HERE = N_(
    "A file of your own is run only where the studio has no password and listens to this computer "
    "alone. Elsewhere use the command: python launch.py pick --judge FILE.py:FUNCTION"
)


def build(page: Page, is_local: bool) -> None:
    """Who picks, and how often; below, who has picked."""
    store = page.store
    about = _(
        "Any function that scores pictures can pick in your place, the better picture being the "
        "one with the higher score. Prefer shows such picks as “by a judge”; rounds learn from "
        "them as from yours."
    )
    gr.HTML(f"<p class='soft'>{about}</p>", apply_default_css=False)
    choices = [(_(ABOUT[name]), name) for name in BUILT_IN]
    judge = gr.Dropdown(
        [*choices, (_("A file of my own"), OWN)] if is_local else choices,
        value=next(iter(BUILT_IN)),
        label=_("Judge"),
        info=None if is_local else _(NOT_HERE),
        interactive=True,
        elem_id="judge-name",
    )
    reference = gr.Textbox(
        label=_("File and function"),
        info=_(
            "The function takes a picture and its prompt and gives a number, higher is better. The "
            "file is run: it may do whatever you may do on this computer. Use none that you would "
            "not run yourself."
        ),
        placeholder="/home/me/taste.py:calm",
        lines=1,
        visible=False,
        elem_id="judge-file",
    )
    number = gr.Number(label=_("Picks"), value=16, precision=0, elem_id="judge-picks")
    start = gr.Button(_("Let it pick"), elem_id="judge-start", size="sm")
    said = gr.HTML(
        apply_default_css=False, elem_id="judge-said", js_on_load=click_events("stop", "take_back")
    )

    def view(snapshot: StoreSnapshot) -> Values:
        job = snapshot.newest_job("judge")
        counts = store.judged_counts(snapshot.session.id)
        return {
            start: gr.update(interactive=not is_open(job)),
            said: f"{progress_html(snapshot, job)}{judged_html(counts, is_open(job))}",
        }

    page.show(view, [start, said])

    def reveal(session: Session, name: str) -> Values:
        return {reference: gr.update(visible=name == OWN)}

    def begin(session: Session, name: str, text: str | None, picks: float | None) -> None:
        payload = judge_payload(name, text or "", picks, is_local)
        store.add_job(session.id, "judge", payload)

    def stop(session: Session, _event: gr.EventData) -> None:
        if job := StoreSnapshot(store).newest_job("judge"):
            store.cancel_job(job.id)

    def take_back(session: Session, event: gr.EventData) -> str:
        name = str(event._data["name"])
        return ngettext(
            "{number} pick by {name} is taken back. The next round learns without it.",
            "{number} picks by {name} are taken back. The next round learns without them.",
            store.withdraw_judge(session.id, name),
            name=name,
        )

    page.on(judge.input, reveal, inputs=[judge], outputs=[reference])
    page.on(start.click, begin, inputs=[judge, reference, number])
    page.on(said.stop, stop, with_event=True)
    page.on(said.take_back, take_back, with_event=True)


def judge_payload(name: str, text: str, picks: float | None, is_local: bool) -> dict[str, object]:
    """The payload of a job. Raises SettingsError with a sentence.

    is_local: whether files may be run, see SECURITY.md. It is asked here, and not only by what the
    page shows: a request need not come from the page.
    """
    if picks is None or not 1 <= picks <= MOST_PICKS:
        raise SettingsError(
            _("A judge makes between 1 and {most} picks at a time.", most=MOST_PICKS)
        )
    if name in BUILT_IN:
        return {"judge": name, "picks": int(picks)}
    if not is_local:
        raise SettingsError(_(NOT_HERE))
    path, _colon, function = text.strip().strip("\"'").rpartition(":")
    path = typed(path)
    if not path.endswith(".py") or not re.fullmatch(r"\w+", function):
        raise SettingsError(_("Name a file and a function in it: /home/me/taste.py:calm."))
    return {"judge": f"{path}:{function}", "picks": int(picks)}


def progress_html(snapshot: StoreSnapshot, job: Job | None) -> str:
    """How far a judge is, or why it stopped."""
    if job is None or job.state in ("done", "cancelled"):
        return ""
    if job.state == "failed":
        return f"<p class='problem' role='alert'>{escape(told(job.message))}</p>"
    return (
        f"<p class='working-line' role='status'>{escape(words_of(snapshot, job))}</p>"
        f"<button type='button' class='button small' data-event='stop'>{_('Stop')}</button>"
    )


def judged_html(counts: dict[str, int], is_picking: bool) -> str:
    """Who has picked, each with a button that takes all of it back."""
    lines = "".join(
        f"<li>{escape(_said(number, name))} "
        "<button type='button' class='button small' data-event='take_back' "
        f"aria-label='{escape(_('Take back all picks by {name}', name=name))}' "
        f"data-name='{escape(name)}'{' disabled' if is_picking else ''}>{_('Take back')}"
        "</button></li>"
        for name, number in counts.items()
    )
    return f"<ul class='judged'>{lines}</ul>" if lines else ""


def _said(number: int, name: str) -> str:
    return ngettext("{number} pick by {name}", "{number} picks by {name}", number, name=name)
