"""A judge: a function that picks in the artist's place, and whose picks can be taken back."""

from __future__ import annotations

import re
from html import escape

import gradio as gr

from studio.judges import BUILT_IN
from studio.paths import typed
from studio.settings import SettingsError
from studio.store.rows import Job, Session
from studio.ui import words
from studio.ui.jobs import is_open, words_of
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot
from studio.ui.widgets import click_events

MOST_PICKS = 1000  # at a time
OWN = "A file of my own"
ABOUT = {
    "compressible": "Calm: takes few bytes as a JPEG",
    "incompressible": "Busy: takes many bytes as a JPEG",
}
NOT_HERE = (
    "A file of your own is run only where the studio has no password and listens to this computer "
    "alone. Elsewhere use `python launch.py pick --judge FILE.py:FUNCTION`."
)


def build(page: Page, is_local: bool) -> None:
    """Who picks, and how often; below, who has picked."""
    store = page.store
    gr.HTML(
        "<p class='soft'>Any function that scores pictures can pick in your place, the better "
        "picture being the one with the higher score. Prefer shows such picks as <i>by a judge"
        "</i>; rounds learn from them as from yours.</p>",
        apply_default_css=False,
    )
    choices = [(ABOUT.get(name, name), name) for name in BUILT_IN]
    judge = gr.Dropdown(
        [*choices, (OWN, OWN)] if is_local else choices,
        value=next(iter(BUILT_IN)),
        label="Judge",
        info=None if is_local else NOT_HERE,
        interactive=True,
        elem_id="judge-name",
    )
    reference = gr.Textbox(
        label="File and function",
        info="function(picture, prompt) gives a number, higher is better. The file is run: it may "
        "do whatever you may do on this computer. Use none that you would not run yourself.",
        placeholder="/home/me/taste.py:calm",
        lines=1,
        visible=False,
        elem_id="judge-file",
    )
    number = gr.Number(label="Picks", value=16, precision=0, elem_id="judge-picks")
    start = gr.Button("Let it pick", elem_id="judge-start", size="sm")
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
        count = words.count(store.withdraw_judge(session.id, name), "pick")
        return f"{count} by {name} taken back. The next round learns without them."

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
        raise SettingsError(f"A judge makes between 1 and {MOST_PICKS} picks at a time.")
    if name in BUILT_IN:
        return {"judge": name, "picks": int(picks)}
    if not is_local:
        raise SettingsError(NOT_HERE)
    path, _, function = text.strip().strip("\"'").rpartition(":")
    path = typed(path)
    if not path.endswith(".py") or not re.fullmatch(r"\w+", function):
        raise SettingsError("Name a file and a function in it: /home/me/taste.py:calm.")
    return {"judge": f"{path}:{function}", "picks": int(picks)}


def progress_html(snapshot: StoreSnapshot, job: Job | None) -> str:
    """How far a judge is, or why it stopped."""
    if job is None or job.state in ("done", "cancelled"):
        return ""
    if job.state == "failed":
        return f"<p class='problem' role='alert'>{escape(job.message)}</p>"
    return (
        f"<p class='working-line' role='status'>{escape(words_of(snapshot, job))}</p>"
        "<button type='button' class='button small' data-event='stop'>Stop</button>"
    )


def judged_html(counts: dict[str, int], is_picking: bool) -> str:
    """Who has picked, each with a button that takes all of it back."""
    lines = "".join(
        f"<li>{words.count(number, 'pick')} by <b>{escape(name)}</b> "
        f"<button type='button' class='button small' data-event='take_back' "
        f"aria-label='Take back all picks by {escape(name)}' data-name='{escape(name)}'"
        f"{' disabled' if is_picking else ''}>Take back</button></li>"
        for name, number in counts.items()
    )
    return f"<ul class='judged'>{lines}</ul>" if lines else ""
