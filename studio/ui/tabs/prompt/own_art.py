"""Own finished art: given to learn from, drawn beside by the model, and chosen over that."""

from __future__ import annotations

import uuid
from html import escape

import gradio as gr

from studio.paths import typed
from studio.settings import SettingsError, TrainingSettings
from studio.store import OwnCounts, OwnPicture
from studio.store.rows import Job, Session
from studio.ui import words
from studio.ui.images import thumbnail_url
from studio.ui.jobs import cancel_open, is_open, words_of
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot
from studio.ui.widgets import click_events, progress_bar

SHOWN = 24  # the newest ones
CHAINLESS = TrainingSettings().loss  # the estimator that needs no steps of a drawing


def build(page: Page) -> None:
    """Where the art lies and what it shows, and the pairs that came of it."""
    store = page.store
    path = gr.Textbox(
        label="A folder or a picture on this computer",
        info="Your own finished art. The model draws what each caption says, and your picture is "
        "chosen over the drawing. Files are copied and never changed.",
        placeholder="/home/me/art",
        lines=1,
        elem_id="own-path",
    )
    caption = gr.Textbox(
        label="Caption",
        info="For all of them. Left empty, each has its own: a text file of its name (fox.png, "
        "fox.txt), or the prompt in the picture.",
        lines=1,
        elem_id="own-caption",
    )
    read = gr.Button("Learn from these", elem_id="own-read", size="sm")
    about = gr.HTML(
        apply_default_css=False,
        elem_id="own-art",
        js_on_load=click_events("cancel", "leave", "take_back", "choose"),
    )

    def view(snapshot: StoreSnapshot) -> Values:
        job, session_id = snapshot.newest_job("read_own"), snapshot.session.id
        counts = store.own_counts(session_id)
        shown = store.newest_own_pictures(session_id, SHOWN) if counts.pictures else []
        return {
            read: gr.update(interactive=not is_open(job)),
            about: reading(snapshot, job) + so_far(snapshot, counts) + pairs(shown, counts),
        }

    page.show(view, [read, about])
    page.fill(lambda _: {path: "", caption: ""}, [path, caption])

    def read_own(session: Session, text: str, said: str) -> None:
        wanted = typed(text)
        if not wanted:
            raise SettingsError("Write the path of a folder, or of a picture, first.")
        store.add_job(session.id, "read_own", {"path": wanted, "caption": said.strip()})

    def cancel(session: Session, _event: gr.EventData) -> None:
        cancel_open(store, session.id, "read_own")

    def leave(session: Session, _event: gr.EventData) -> str:
        number = store.leave_own_out(session.id)
        return (
            f"{words.count(number, 'picture')} left out. The gallery brings back what was deleted."
        )

    def take_back(session: Session, event: gr.EventData) -> None:
        store.set_own_chosen(uuid.uuid4().hex, event._data["id"], False)

    def choose(session: Session, event: gr.EventData) -> None:
        store.set_own_chosen(uuid.uuid4().hex, event._data["id"], True)

    for event in (read.click, path.submit, caption.submit):
        page.on(event, read_own, inputs=[path, caption])
    page.on(about.cancel, cancel, with_event=True)
    page.on(about.leave, leave, with_event=True)
    page.on(about.take_back, take_back, with_event=True)
    page.on(about.choose, choose, with_event=True)


def reading(snapshot: StoreSnapshot, job: Job | None) -> str:
    """How far the reading is, and what was left out."""
    if job is None or job.state == "cancelled":
        return ""
    if job.state == "failed":
        return f"<p class='problem' role='alert'>{escape(job.message)}</p>"
    if job.state != "done":
        return (
            f"<p class='working-line'>{escape(words_of(snapshot, job))}</p>"
            f"{progress_bar(job.progress, 'Your own art')}"
            "<button type='button' class='button small' data-event='cancel'>Stop</button>"
        )
    new, known, left_out = (job.result[name] for name in ("pictures", "known", "left_out"))
    said = f"<p>{words.count(new, 'new picture')}"
    said += f", {known} known already" if known else ""
    said += f". Left out: {left_out}.</p>" if left_out else ".</p>"
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in job.result.get("remarks", []))
    if remarks:
        said += f"<details><summary>Which, and why</summary><ul>{remarks}</ul></details>"
    return said


def so_far(snapshot: StoreSnapshot, counts: OwnCounts) -> str:
    """How many there are, what is still to be drawn, and what rounds make of them."""
    if not counts.pictures:
        return ""
    said = f"<p>{counts.chosen} of {words.count(counts.pictures, 'picture')} of your own chosen "
    said += "over a drawing: picks like any other, though nobody clicked.</p>"
    if left := counts.pictures - counts.drawn:
        said += (
            f"<p>{left} still to be drawn beside, while the painter has nothing else to do; those "
            "read for another model or size wait for it. "
            "<button type='button' class='button small' data-event='leave'>Leave them out</button>"
            "</p>"
        )
    if snapshot.settings.training.loss != CHAINLESS:
        said += (
            "<p class='problem'>D3PO learns from the steps of a drawing, which your own pictures "
            "do not have: it leaves them out, and Diffusion-DPO learns from them.</p>"
        )
    return said


def pairs(shown: list[OwnPicture], counts: OwnCounts) -> str:
    """The newest ones, each beside what was drawn of its caption."""
    items = "".join(map(_item, shown))
    if not items:
        return ""
    more = counts.pictures - len(shown)
    rest = f"<p class='soft'>And {more} more, in the gallery.</p>" if more > 0 else ""
    return f"<ul class='own-pairs' aria-label='Your own art'>{items}</ul>{rest}"


def _item(one: OwnPicture) -> str:
    prompt = escape(one.image.prompt, quote=True)
    pictures = _picture(one.image.id, f"Your own picture: {prompt}", "own")
    pictures += "".join(_picture(each.id, f"A drawing: {prompt}", "") for each in one.drawings)
    if not one.drawings:
        state, button = "Not drawn beside yet", ""
    else:
        state = "Chosen" if one.is_chosen else "Taken back"
        event, label = ("take_back", "Take back") if one.is_chosen else ("choose", "Choose it")
        button = (
            f"<button type='button' class='button quiet small' data-event='{event}' "
            f"data-id='{one.image.id}' aria-label='{label}: {prompt}'>{label}</button>"
        )
    return (
        f"<li class='{'' if one.is_chosen else 'out'}'><span class='own-pictures'>{pictures}</span>"
        f"<span class='own-caption' title='{prompt}'>{prompt}</span>"
        f"<span class='own-state'>{state} {button}</span></li>"
    )


def _picture(image_id: str, alt: str, kind: str) -> str:
    return f"<img class='{kind}' src='{thumbnail_url(image_id)}' alt='{alt}' loading='lazy'>"
