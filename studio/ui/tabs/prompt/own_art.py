"""Own finished art: given to learn from, drawn beside by the model, and chosen over that."""

from __future__ import annotations

import uuid
from html import escape

import gradio as gr

from studio.messages import _, together, told
from studio.paths import typed
from studio.settings import SettingsError, TrainingSettings
from studio.store import Image, OwnCounts, OwnPicture
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
        label=_("A folder or a picture on this computer"),
        info=_(
            "Your own finished art. The model draws what each caption says, and your picture is "
            "chosen over the drawing. Files are copied and never changed."
        ),
        placeholder="/home/me/art",
        lines=1,
        elem_id="own-path",
    )
    caption = gr.Textbox(
        label=_("Caption"),
        info=_(
            "For all of them. Left empty, each has its own: a text file of its name (fox.png, "
            "fox.txt), or the prompt in the picture."
        ),
        lines=1,
        elem_id="own-caption",
    )
    read = gr.Button(_("Learn from these"), elem_id="own-read", size="sm")
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
            raise SettingsError(_("Write the path of a folder, or of a picture, first."))
        store.add_job(session.id, "read_own", {"path": wanted, "caption": said.strip()})

    def cancel(session: Session, _event: gr.EventData) -> None:
        cancel_open(store, session.id, "read_own")

    def leave(session: Session, _event: gr.EventData) -> str:
        gone = words.pictures(store.leave_own_out(session.id))
        return _("{pictures} left out. The gallery can bring them back.", pictures=gone)

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
        return f"<p class='problem' role='alert'>{escape(told(job.message))}</p>"
    if job.state != "done":
        return (
            f"<p class='working-line'>{escape(words_of(snapshot, job))}</p>"
            f"{progress_bar(job.progress, _('Your own art'))}"
            "<button type='button' class='button small' data-event='cancel'>"
            f"{_('Stop')}</button>"
        )
    new, known, left_out = (job.result[name] for name in ("pictures", "known", "left_out"))
    lines = [_("{new} new, {known} known already.", new=new, known=known)]
    if left_out:
        lines.append(_("Left out: {number}.", number=left_out))
    said = f"<p>{escape(together(*lines))}</p>"
    remarks = "".join(
        f"<li>{escape(told(remark))}</li>" for remark in job.result.get("remarks", [])
    )
    if remarks:
        said += f"<details><summary>{_('Which, and why')}</summary><ul>{remarks}</ul></details>"
    return said


def so_far(snapshot: StoreSnapshot, counts: OwnCounts) -> str:
    """How many there are, what is still to be drawn, and what rounds make of them."""
    if not counts.pictures:
        return ""
    chosen = _(
        "{chosen} of {pictures} of your own chosen over a drawing: picks like any other, though "
        "nobody clicked.",
        chosen=counts.chosen,
        pictures=words.pictures(counts.pictures),
    )
    said = f"<p>{escape(chosen)}</p>"
    if left := counts.pictures - counts.drawn:
        waiting = _(
            "{number} to be drawn beside yet, while the painter has nothing else to do. Those that "
            "were read for another model or size wait for it.",
            number=left,
        )
        said += (
            f"<p>{escape(waiting)} <button type='button' class='button small' data-event='leave'>"
            f"{_('Leave them out')}</button></p>"
        )
    if snapshot.settings.training.loss != CHAINLESS:
        cannot = _(
            "D3PO learns from the steps of a drawing, which your own pictures do not have: it "
            "leaves them out, and Diffusion-DPO learns from them."
        )
        said += f"<p class='problem'>{escape(cannot)}</p>"
    return said


def pairs(shown: list[OwnPicture], counts: OwnCounts) -> str:
    """The newest ones, each beside what was drawn of its caption."""
    items = "".join(map(_item, shown))
    if not items:
        return ""
    more = counts.pictures - len(shown)
    rest = _("And {number} more, in the gallery.", number=more)
    said = f"<p class='soft'>{escape(rest)}</p>" if more > 0 else ""
    return f"<ul class='own-pairs' aria-label='{_('Your own art')}'>{items}</ul>{said}"


def _item(one: OwnPicture) -> str:
    prompt = one.image.prompt
    pictures = _picture(one.image.id, _("Your own picture: {prompt}", prompt=prompt))
    for drawing in one.drawings:
        pictures += _picture(drawing.id, _("A drawing: {prompt}", prompt=prompt))
    if not one.drawings:
        state, button = _("Not drawn beside yet"), ""
    elif one.is_chosen:
        state, button = _("Yours is chosen"), _button("take_back", _("Take back"), one.image)
    else:
        state, button = _("Taken back"), _button("choose", _("Choose it"), one.image)
    return (
        f"<li class='{'' if one.is_chosen else 'out'}'><span class='own-pictures'>{pictures}</span>"
        f"<span class='own-caption' title='{escape(prompt)}'>{escape(prompt)}</span>"
        f"<span class='own-state'>{escape(state)} {button}</span></li>"
    )


def _button(event: str, label: str, image: Image) -> str:
    return (
        f"<button type='button' class='button quiet small' data-event='{event}' "
        f"data-id='{image.id}' aria-label='{escape(f'{label}: {image.prompt}')}'>"
        f"{escape(label)}</button>"
    )


def _picture(image_id: str, alt: str) -> str:
    return f"<img src='{thumbnail_url(image_id)}' alt='{escape(alt)}' loading='lazy'>"
