"""Export, the picks themselves: out to other programs, and in from those."""

from __future__ import annotations

from html import escape
from pathlib import Path

import gradio as gr

from studio.paths import typed
from studio.settings import SettingsError
from studio.store.rows import Job, Session
from studio.ui import words
from studio.ui.folders import show_folder
from studio.ui.page import Look, Page, Values

FORMS = {"pickapic": "As a data set (Pick-a-Pic)", "d3po": "As D3PO’s code keeps them"}
JS = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-picks]");
  if (button) trigger("asked", { act: button.dataset.picks });
});"""


def build(page: Page, is_local: bool) -> None:
    """Two ways out, and one way in that takes all forms."""
    store = page.store
    gr.HTML(
        "<p class='soft'>With both pictures, prompts, seeds and reasons, in a new folder.</p>",
        apply_default_css=False,
    )
    with gr.Row(elem_classes="buttons"):
        out = {
            form: gr.Button(label, elem_id=f"picks-{form}", size="sm", min_width=160)
            for form, label in FORMS.items()
        }
    given = gr.HTML(apply_default_css=False, elem_id="picks-given", js_on_load=JS)
    path = gr.Textbox(
        label="Take picks in",
        info="A folder on this computer: a data set with Pick-a-Pic’s columns, D3PO’s files, or "
        "your own pairs: “chosen” and “rejected” with pictures of the same names, and the prompts "
        "in text files beside them.",
        placeholder="/home/me/pairs",
        lines=1,
        elem_id="picks-path",
    )
    gr.HTML(
        "<p class='soft'>They become a new session with this session’s model and size. How such "
        "pictures were drawn is not known, so only Diffusion-DPO can learn from them; D3PO cannot."
        "</p>",
        apply_default_css=False,
    )
    take = gr.Button("Take them in", elem_id="picks-take", size="sm")
    taken = gr.HTML(apply_default_css=False, elem_id="picks-taken", js_on_load=JS)

    def view(look: Look) -> Values:
        giving, taking = look.newest_job("give_picks"), look.newest_job("take_picks")
        can_give = bool(look.counts.total) and not _is_open(giving)
        return {
            **{button: gr.update(interactive=can_give) for button in out.values()},
            given: what_went_out(giving, is_local),
            take: gr.update(interactive=not _is_open(taking)),
            taken: what_came_in(taking),
        }

    page.shows(view, [*out.values(), given, take, taken])
    page.fills(lambda look: {path: ""}, [path])

    def give(form: str) -> None:
        def asked(session: Session) -> None:
            store.add_job(session.id, "give_picks", {"form": form})

        page.hears(out[form].click, asked)

    for form in FORMS:
        give(form)

    def take_in(session: Session, text: str) -> None:
        wanted = typed(text)
        if not wanted:
            raise SettingsError("Write the path of a folder with picks first.")
        store.add_job(session.id, "take_picks", {"path": wanted})

    for listener in (take.click, path.submit):
        page.hears(listener, take_in, inputs=[path])

    def asked(session: Session, event: gr.EventData) -> str | None:
        """What is behind the small buttons in what is said."""
        look = Look(store)
        act = event._data.get("act")
        job = look.newest_job("give_picks" if act == "folder" else "take_picks")
        if job is None:
            return None
        if act == "cancel":
            store.cancel_job(job.id)
        elif act == "open":
            store.set_last_session(str(job.result.get("session_id")))
        elif act == "folder":
            folder = Path(str(job.result.get("folder")))
            if not is_local or not show_folder(folder):
                raise SettingsError(f"The folder could not be opened. It is {folder}.")
        return None

    for component in (given, taken):
        page.hears(component.asked, asked, with_event=True)


def _is_open(job: Job | None) -> bool:
    return job is not None and job.state in ("queued", "running")


def what_went_out(job: Job | None, is_local: bool) -> str:
    """Where the picks are that were written last."""
    if job is None or job.state == "cancelled":
        return ""
    if job.state == "failed":
        return f"<p class='problem' role='alert'>{escape(job.message)}</p>"
    if job.state != "done":
        return "<p class='working-line'>Writing the picks</p>"
    found = job.result
    show = "<button type='button' class='button small' data-picks='folder'>Show folder</button>"
    return (
        f"<p>{words.count(found['picks'], 'pick')} in <code>{escape(found['folder'])}</code>."
        f"{_left_out(found['left_out'])} {show if is_local else ''}</p>"
    )


def what_came_in(job: Job | None) -> str:
    """How the taking in goes, or went."""
    if job is None or job.state == "cancelled":
        return ""
    if job.state == "failed":
        return (
            f"<p class='problem' role='alert'>{escape(job.message)} There is no new session, and "
            "nothing else was changed.</p>"
        )
    if job.state != "done":
        return (
            f"<p class='working-line'>Taking the picks in. {escape(job.message)}</p>"
            "<button type='button' class='button small' data-picks='cancel'>Cancel</button>"
        )
    found = job.result
    return (
        f"<p>{words.count(found['picks'], 'pick')} in the new session “{escape(found['name'])}”."
        f"{_left_out(found['left_out'])} Diffusion-DPO can learn from them; D3PO cannot.</p>"
        f"{_remarks(found.get('remarks', []))}"
        "<button type='button' class='button small primary' data-picks='open'>Open it</button>"
    )


def _remarks(said: list[str]) -> str:
    """Which were left out and why, in a list that opens."""
    if not said:
        return ""
    lines = "".join(f"<li>{escape(one)}</li>" for one in said)
    return f"<details><summary>Which, and why</summary><ul>{lines}</ul></details>"


def _left_out(number: int) -> str:
    if not number:
        return ""
    return f" Left out: {number}, whose pictures or prompts could not be used."
