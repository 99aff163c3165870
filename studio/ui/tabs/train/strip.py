"""The strip of rounds: the same prompts and seeds after every round."""

from __future__ import annotations

from html import escape

import gradio as gr

from studio.messages import _, told
from studio.store.rows import Adapter, Image, Round, Session
from studio.ui import words
from studio.ui.images import image_url
from studio.ui.page import Page
from studio.ui.previews import Previews, current_previews
from studio.ui.snapshot import StoreSnapshot
from studio.ui.widgets import click_events


def build(page: Page) -> None:
    """A row for every round, with a button that puts it to use."""
    strip = gr.HTML(apply_default_css=False, elem_id="strip", js_on_load=click_events("use"))
    page.show(lambda snapshot: {strip: strip_of_rounds(snapshot)}, [strip])

    def use(session: Session, event: gr.EventData) -> str:
        adapter_id = event._data.get("adapter") or None
        page.store.set_current_adapter(session.id, adapter_id)
        if adapter_id is None:
            return _("The base model is in use again. Every round is kept.")
        number = page.store.adapter(adapter_id).number
        if session.settings.pairs_by == "newest":
            return _("Round {number} is in use: new pairs are drawn with it.", number=number)
        return _("Round {number} is in use.", number=number)

    page.on(strip.use, use, with_event=True)


def strip_of_rounds(snapshot: StoreSnapshot) -> str:
    """A row for the base model, and one for every round."""
    prompts = snapshot.settings.shown_prompts
    if not prompts:
        return ""
    pictures = current_previews(snapshot)
    by_id = {adapter.id: adapter for adapter in snapshot.adapters}
    rows = [_picture_row(snapshot, _("Base model"), None, _("before any picks"), pictures)]
    for round_ in snapshot.rounds:
        adapter = by_id.get(round_.adapter_id or "")
        rows.append(_round_row(snapshot, round_, adapter, pictures))
    about = _(
        "The same prompts and the same seeds after every round. Any round can be used again; none "
        "is ever lost."
    )
    head = "".join(f"<span title='{escape(p, quote=True)}'>{escape(p)}</span>" for p in prompts)
    return (
        f"<h2 class='section'>{_('The taste arriving')}</h2><p class='soft'>{about}</p>"
        f"<div class='strip' role='group' aria-label='{_('Pictures of every round')}' tabindex='0' "
        f"style='--columns:{len(prompts)}'>"
        f"<div class='strip-head' aria-hidden='true'><span></span>{head}</div>{''.join(rows)}</div>"
    )


def _round_row(
    snapshot: StoreSnapshot, round_: Round, adapter: Adapter | None, pictures: Previews
) -> str:
    name = _("Round {number}", number=round_.number)
    is_held_back = round_.state == "held_back"
    if adapter is None and round_.adapter_id is not None:  # its pictures are being drawn
        return _row(
            name, _("being checked"), "", _cells(snapshot, name, round_.adapter_id, pictures)
        )
    if adapter is None:
        note = f"<p class='strip-note'>{escape(_unfinished(round_))}</p>"
        return _row(name, _("held back") if is_held_back else "", "", note)
    about = words.picks(adapter.picks)
    if is_held_back:
        about = _("{picks}, held back", picks=about)
    return _picture_row(snapshot, name, adapter.id, about, pictures)


def _picture_row(
    snapshot: StoreSnapshot, name: str, adapter_id: str | None, about: str, pictures: Previews
) -> str:
    cells = _cells(snapshot, name, adapter_id, pictures)
    if snapshot.session.current_adapter_id == adapter_id:
        return _row(name, about, f"<span class='badge'>{_('In use')}</span>", cells, "data-current")
    button = (
        f"<button type='button' class='button small' data-event='use' "
        f"data-adapter='{adapter_id or ''}' aria-label='{_('Use {name}', name=name)}'>"
        f"{_('Use this')}</button>"
    )
    return _row(name, about, button, cells)


def _cells(snapshot: StoreSnapshot, name: str, adapter_id: str | None, pictures: Previews) -> str:
    return "".join(
        _cell(pictures.get((adapter_id, prompt)), prompt, name)
        for prompt in snapshot.settings.shown_prompts
    )


def _row(name: str, about: str, action: str, cells: str, mark: str = "") -> str:
    return (
        f"<div class='strip-row' {mark}>"
        f"<div class='strip-name'><b>{name}</b><small>{about}</small>{action}</div>{cells}</div>"
    )


def _cell(image: Image | None, prompt: str, name: str) -> str:
    if image is None:
        label = _("Not drawn yet")
        return f"<span class='picture none' role='img' aria-label='{label}'></span>"
    alt = escape(f"{name}: {prompt}", quote=True)
    return f"<img class='picture' src='{image_url(image.id)}' alt='{alt}' loading='lazy'>"


def _unfinished(round_: Round) -> str:
    match round_.state:
        case "failed":
            return _("Could not be finished: {sentence}", sentence=told(round_.message))
        case "stopped":
            return _("Stopped before it was done.")
        case "paused":
            return _("Paused.")
        case _:
            return _("Its pictures appear here, one by one, when it has learned.")
