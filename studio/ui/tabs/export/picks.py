"""The picks themselves: out to other programs, and in from those."""

from __future__ import annotations

from functools import partial
from html import escape
from pathlib import Path

import gradio as gr

from studio.messages import N_, _, told
from studio.paths import typed
from studio.settings import SettingsError
from studio.store.rows import Job, Session
from studio.ui import words
from studio.ui.folders import show_folder
from studio.ui.jobs import is_open
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot
from studio.ui.widgets import click_events

FORMS = {
    "pickapic": N_("As a data set (Pick-a-Pic)"),
    "folders": N_("As folders for trainers"),
    "d3po": N_("As D3PO’s code keeps them"),
}
NOT_GIVEN = N_("whose pictures are missing, or whose answer has no place there")
NOT_TAKEN = N_("whose pictures or prompts could not be used")


def build(page: Page, is_local: bool) -> None:
    """Three ways out, and one way in that reads every form."""
    store = page.store
    about = _(
        "With both pictures, prompts, seeds and reasons, in a new folder. The data set is for "
        "diffusers; the folders “chosen” and “rejected” are for SimpleTuner, OneTrainer and "
        "Flow-Factory, and take only picks that say which picture is better."
    )
    gr.HTML(
        f"<p class='soft'>{about}</p>",
        apply_default_css=False,
    )
    with gr.Row(elem_classes="buttons"):
        give = {
            form: gr.Button(label, elem_id=f"picks-{form}", size="sm", min_width=160)
            for form, label in FORMS.items()
        }
    given = gr.HTML(
        apply_default_css=False, elem_id="picks-given", js_on_load=click_events("open_folder")
    )
    path = gr.Textbox(
        label=_("Take picks in"),
        info=_(
            "A folder on this computer: a data set with Pick-a-Pic’s columns, D3PO’s files, "
            "Flow-Factory’s train.jsonl, or your own pairs: “chosen” and “rejected” with pictures "
            "of the same names, and the prompts in text files beside them."
        ),
        placeholder="/home/me/pairs",
        lines=1,
        elem_id="picks-path",
    )
    becomes = _(
        "They become a new session with this session’s model and size. How such pictures were "
        "drawn is not known, so only Diffusion-DPO can learn from them; D3PO cannot."
    )
    gr.HTML(
        f"<p class='soft'>{becomes}</p>",
        apply_default_css=False,
    )
    take = gr.Button(_("Take them in"), elem_id="picks-take", size="sm")
    taken = gr.HTML(
        apply_default_css=False,
        elem_id="picks-taken",
        js_on_load=click_events("cancel", "open_session"),
    )

    def view(snapshot: StoreSnapshot) -> Values:
        giving, taking = snapshot.newest_job("give_picks"), snapshot.newest_job("take_picks")
        can_give = bool(snapshot.counts.total) and not is_open(giving)
        return {
            **{button: gr.update(interactive=can_give) for button in give.values()},
            given: given_picks(giving, is_local),
            take: gr.update(interactive=not is_open(taking)),
            taken: taken_picks(taking),
        }

    page.show(view, [*give.values(), given, take, taken])
    page.fill(lambda _snapshot: {path: ""}, [path])

    def give_picks(form: str, session: Session) -> None:
        store.add_job(session.id, "give_picks", {"form": form})

    def take_picks(session: Session, text: str) -> None:
        wanted = typed(text)
        if not wanted:
            raise SettingsError(_("Write the path of a folder with picks first."))
        store.add_job(session.id, "take_picks", {"path": wanted})

    def open_folder(session: Session, _event: gr.EventData) -> None:
        if job := StoreSnapshot(store).newest_job("give_picks"):
            folder = Path(str(job.result.get("folder")))
            if not is_local or not show_folder(folder):
                raise SettingsError(
                    _("The folder could not be opened. It is {folder}.", folder=folder)
                )

    def cancel(session: Session, _event: gr.EventData) -> None:
        if job := StoreSnapshot(store).newest_job("take_picks"):
            store.cancel_job(job.id)

    def open_session(session: Session, _event: gr.EventData) -> None:
        if job := StoreSnapshot(store).newest_job("take_picks"):
            store.set_last_session(str(job.result.get("session_id")))

    for form, button in give.items():
        page.on(button.click, partial(give_picks, form))
    for event in (take.click, path.submit):
        page.on(event, take_picks, inputs=[path])
    page.on(given.open_folder, open_folder, with_event=True)
    page.on(taken.cancel, cancel, with_event=True)
    page.on(taken.open_session, open_session, with_event=True)


def given_picks(job: Job | None, is_local: bool) -> str:
    """Where the picks were written, or how far the writing is."""
    if job is None or job.state == "cancelled":
        return ""
    if job.state == "failed":
        return f"<p class='problem' role='alert'>{escape(told(job.message))}</p>"
    if job.state != "done":
        return f"<p class='working-line'>{_('Writing the picks')}</p>"
    result = job.result
    show = ""
    if is_local:
        show = (
            "<button type='button' class='button small' data-event='open_folder'>"
            f"{_('Show folder')}</button>"
        )
    where = _(
        "{picks} in <code>{folder}</code>.",
        picks=words.picks(result["picks"]),
        folder=escape(result["folder"]),
    )
    return f"<p>{where}{_left_out(result['left_out'], NOT_GIVEN)} {show}</p>"


def taken_picks(job: Job | None) -> str:
    """The new session that the picks became, or how far the reading is."""
    if job is None or job.state == "cancelled":
        return ""
    if job.state == "failed":
        nothing = _("There is no new session, and nothing else was changed.")
        return f"<p class='problem' role='alert'>{escape(told(job.message))} {nothing}</p>"
    if job.state != "done":
        return (
            f"<p class='working-line'>{_('Taking the picks in.')} {escape(told(job.message))}</p>"
            "<button type='button' class='button small' data-event='cancel'>"
            f"{_('Cancel')}</button>"
        )
    result = job.result
    where = _(
        "{picks} in the new session “{name}”.",
        picks=words.picks(result["picks"]),
        name=escape(result["name"]),
    )
    return (
        f"<p>{where}{_left_out(result['left_out'], NOT_TAKEN)} "
        f"{_('Diffusion-DPO can learn from them; D3PO cannot.')}</p>"
        f"{_remarks(result.get('remarks', []))}"
        "<button type='button' class='button small primary' data-event='open_session'>"
        f"{_('Open it')}</button>"
    )


def _remarks(remarks: list[str]) -> str:
    """The pairs that were left out and why, in a list that opens."""
    if not remarks:
        return ""
    lines = "".join(f"<li>{escape(told(remark))}</li>" for remark in remarks)
    return f"<details><summary>{_('Which, and why')}</summary><ul>{lines}</ul></details>"


def _left_out(number: int, why: str) -> str:
    if not number:
        return ""
    return " " + _("Left out: {number}, {why}.", number=number, why=_(why))
