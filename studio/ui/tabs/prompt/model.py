"""The base model of a session: its card, and the chooser with the library and any other model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from studio.families import SD1, Family
from studio.messages import N_, _, together, told
from studio.paths import typed
from studio.settings import (
    STARTER_SIZE_PX,
    SamplingSettings,
    SessionSettings,
    SettingsError,
    is_hub_id,
)
from studio.store import Store
from studio.store.rows import Job, KnownModel, Session
from studio.ui.models import family_of
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot
from studio.ui.static import script, template
from studio.ui.tabs.prompt import dropped, library
from studio.ui.tabs.prompt.model_card import model_card
from studio.ui.widgets import click_events

LOADING = N_("The first pairs take a while: it is loaded first.")


def build(page: Page) -> None:
    """The card of the current model, and the chooser that opens under it."""
    card = gr.HTML(
        value=None,
        html_template=template("prompt/model.html"),
        js_on_load=script("prompt/model.js", *CARD_BUTTONS, "look_at", "find_dropped"),
        apply_default_css=False,
        elem_id="model-card",
    )

    def view(snapshot: StoreSnapshot) -> Values:
        # The chooser closes when another model or another session is shown.
        shown = {"session": snapshot.session.id, "model": snapshot.settings.base_model}
        return {card: {**shown, "html": model_card(snapshot)}}

    page.show(view, [card])
    with gr.Column(elem_id="model-chooser"):  # hidden by its style until the card opens it
        path = _build_chooser(page)

    def look_at(session: Session, event: gr.EventData) -> Values:
        """A path that was dropped as text."""
        text = str(event._data.get("text") or "")
        inspect(page.store, session, text)
        return {path: typed(text)}

    def find_dropped(session: Session, event: gr.EventData) -> str | None:
        """Use a dropped file of the library; one that it does not know is looked at first."""
        name, size_bytes = (event._data.get(key) for key in ("file", "bytes"))
        found = find_file(page.store, str(name), int(size_bytes or 0))
        known = page.store.known_model(found)
        if known is not None and known.family:
            return use_model(page.store, session, known)
        inspect(page.store, session, found)
        return None

    page.on(card.look_at, look_at, outputs=[path], with_event=True)
    page.on(card.find_dropped, find_dropped, with_event=True, refill=True)
    _connect(page, card, CARD_BUTTONS)


def _build_chooser(page: Page) -> gr.Textbox:
    """The library, a field for any other model, which is returned, and the library's folders."""
    store = page.store
    cards = _html("library", *LIBRARY_BUTTONS)
    path = gr.Textbox(
        label=_("Another model"),
        info=_(
            "The path of a .safetensors checkpoint or a diffusers folder, as a file manager "
            "copies it, or its name on the Hugging Face hub, owner/name (Stable Diffusion 1, 2 or "
            "XL). A file of a folder that is known here can be dropped on the page instead."
        ),
        placeholder="~/models/mine.safetensors",
        lines=1,
        elem_id="model-path",
    )
    check = gr.Button(_("Look at this model"), elem_id="model-check")
    found = _html("model-found", *FOUND_BUTTONS)
    folder = gr.Textbox(
        label=_("A folder of models"),
        info=_(
            "Of A1111, Forge, ComfyUI or InvokeAI, the cache of the hub, or any: all models in it "
            "are shown here, and stay where they are."
        ),
        placeholder=str(library.HUB_CACHE),
        lines=1,
        elem_id="model-folder",
    )
    add = gr.Button(_("Show its models"), elem_id="model-folder-add")
    folders = _html("model-sources", *FOLDER_BUTTONS)

    def view(snapshot: StoreSnapshot) -> Values:
        return {
            found: inspected_model(snapshot),
            cards: library.model_cards(snapshot),
            folders: library.folder_list(snapshot, store.model_folders()),
        }

    page.show(view, [cards, found, folders])
    page.fill(lambda _snapshot: {path: "", folder: ""}, [path, folder])

    def add_folder(session: Session, text: str) -> Values:
        try:
            store.set_model_folders(library.with_folder(store.model_folders(), text))
        except ValueError as error:
            raise SettingsError(told(str(error))) from error
        store.add_job(session.id, "library", {})
        return {folder: ""}

    for event in (add.click, folder.submit):
        page.on(event, add_folder, inputs=[folder], outputs=[folder])
    for event in (check.click, path.submit):
        page.on(event, partial(inspect, store), inputs=[path])
    _connect(page, cards, LIBRARY_BUTTONS)
    _connect(page, found, FOUND_BUTTONS)
    _connect(page, folders, FOLDER_BUTTONS)
    return path


def _connect(page: Page, component: gr.HTML, buttons: dict[str, Callable[..., Any]]) -> None:
    for name, handler in buttons.items():
        handle = partial(handler, page.store)
        page.on(getattr(component, name), handle, with_event=True, refill=True)


def _html(elem_id: str, *events: str) -> gr.HTML:
    return gr.HTML(apply_default_css=False, elem_id=elem_id, js_on_load=click_events(*events))


# --- the buttons ---------------------------------------------------------------------------------


def use_starter(store: Store, session: Session, event: gr.EventData) -> str:
    change_model(store, session, "starter", STARTER_SIZE_PX)
    return _("The starter model is in use again.")


def use_copy(store: Store, session: Session, event: gr.EventData) -> str:
    """Continue with the same model at another path."""
    store.move_model_of(session.id, _name(event))
    return _("The session goes on with the same model from there.")


def use_changed(store: Store, session: Session, event: gr.EventData) -> str:
    """Accept that the model's file has changed."""
    store.take_changed_model(session.id)
    return _("The session goes on with the changed file.")


def use_known(store: Store, session: Session, event: gr.EventData) -> str:
    """Use a model of the library."""
    known = store.known_model(_name(event))
    if known is None or not known.family:
        raise SettingsError(_("This model is not known any more: look again."))
    return use_model(store, session, known)


def use_model(store: Store, session: Session, known: KnownModel) -> str:
    change_model(store, session, known.base_model, known.size_px, family_of(known))
    return together(_("{name} is in use now.", name=known.name), _(LOADING))


def use_inspected(store: Store, session: Session, event: gr.EventData) -> str:
    """Use the model that was inspected, at the size it was made for."""
    job = newest_request(StoreSnapshot(store))
    if job is None or job.state != "done":
        return _("Look at the model first.")
    base_model = job.result.get("base_model", requested_model(job))
    family = family_of(store.known_model(base_model))
    change_model(store, session, base_model, int(job.result["size_px"]), family)
    return together(_("This model is in use now."), _(LOADING))


def download_model(store: Store, session: Session, event: gr.EventData) -> None:
    """Download a model from the hub: the one that the button names, or the requested one."""
    job = newest_request(StoreSnapshot(store))
    if repo := _name(event) or (job and requested_model(job)):
        store.add_job(session.id, "download", {"repo": repo})


def stop_download(store: Store, session: Session, event: gr.EventData) -> None:
    if job := newest_request(StoreSnapshot(store)):
        store.cancel_job(job.id)


def search(store: Store, session: Session, event: gr.EventData) -> None:
    """Search the folders for models again."""
    store.add_job(session.id, "library", {})


def forget_folder(store: Store, session: Session, event: gr.EventData) -> None:
    """Stop searching a folder, and forget its models that were never used."""
    folder = _name(event)
    store.set_model_folders([other for other in store.model_folders() if other != folder])
    store.remember_models([], gone=library.unused_inside(folder, store.known_models()))


def _name(event: gr.EventData) -> str:
    return str(event._data.get("name") or "")


def inspect(store: Store, session: Session, text: str) -> None:
    """Let the worker look at a model. Raises SettingsError if nothing was written."""
    if not typed(text):
        raise SettingsError(_("Write the path or the name of a model first."))
    store.add_job(session.id, "inspect", {"path": typed(text)})


def find_file(store: Store, name: str, size_bytes: int) -> str:
    return dropped.find(name, size_bytes, store.known_models(), store.model_folders())


def change_model(
    store: Store, session: Session, base_model: str, size_px: int, family: Family = SD1
) -> None:
    before = family_of(store.known_model(session.settings.base_model))
    store.change_settings(
        session.id, lambda now: with_model(now, base_model, size_px, family, before)
    )


def with_model(
    settings: SessionSettings, base_model: str, size_px: int, family: Family, before: Family
) -> SessionSettings:
    """The settings for another base model, at its own size and with its family's eta, and with its
    steps and guidance where it has its own. Those that are still the own ones of the family
    `before` become the usual ones; what the artist set stays.

    Clip skip and a LoRA to start from belonged to the model before.
    """
    now, usual = settings.sampling, SamplingSettings()
    steps = usual.steps if now.steps == before.steps else now.steps
    guidance = usual.guidance if now.guidance == before.guidance else now.guidance
    sampling = replace(
        now,
        width_px=size_px,
        height_px=size_px,
        clip_skip=1,
        eta=family.eta,
        steps=family.steps or steps,
        guidance=family.guidance or guidance,
    )
    return replace(
        settings,
        base_model=base_model,
        model_hash="",
        model_bytes=0,
        start=None,
        sampling=sampling,
    )


# The buttons in each component's HTML: what `data-event` names, and what it does.
CARD_BUTTONS = {
    "use_copy": use_copy,
    "use_changed": use_changed,
    "download_model": download_model,
}
LIBRARY_BUTTONS = {"use_starter": use_starter, "use_known": use_known}
FOUND_BUTTONS = {
    "use_inspected": use_inspected,
    "download_model": download_model,
    "stop_download": stop_download,
}
FOLDER_BUTTONS = {"search": search, "forget_folder": forget_folder}


# --- the HTML ------------------------------------------------------------------------------------


def newest_request(snapshot: StoreSnapshot) -> Job | None:
    """The newest job that inspects or downloads a model."""
    jobs = [snapshot.newest_job(kind) for kind in ("inspect", "download")]
    return max((job for job in jobs if job), key=lambda job: job.created_at_s, default=None)


def requested_model(job: Job) -> str:
    """The path or the hub name of the model that a job is about."""
    return str(job.payload.get("path") or job.payload.get("repo"))


def inspected_model(snapshot: StoreSnapshot) -> str:
    """The result of inspecting a model, or the progress of its download."""
    job = newest_request(snapshot)
    if job is None:
        return ""
    names = (requested_model(job), job.result.get("base_model"))
    if job.state == "done" and snapshot.settings.base_model in names:
        return ""
    name = f"<code>{escape(requested_model(job))}</code>"
    is_download = job.kind == "download"
    match job.state:
        case "queued" | "running" if is_download:
            return (
                f"<p class='working-line'>{_('Downloading {name}', name=name)}</p>"
                f"<p><progress value='{job.progress:.4f}' max='1'></progress> "
                f"{escape(told(job.message))}</p>"
                "<button type='button' class='button' data-event='stop_download'>"
                f"{_('Stop')}</button>"
            )
        case "queued" | "running":
            return f"<p class='working-line'>{_('Looking at {name}', name=name)}</p>"
        case "cancelled" if is_download:
            kept = _("Stopped. What came whole of {name} is kept.", name=name)
            return f"<p>{kept}</p>{_download(_('Go on'))}"
        case "failed" if is_download:
            problem = f"<p class='problem' role='alert'>{escape(told(job.message))}</p>"
            return f"{problem}{_download(_('Try again'))}"
        case "failed":
            if not is_hub_id(requested_model(job)):
                return f"<p class='problem' role='alert'>{escape(told(job.message))}</p>"
            missing = _("{name} is not on this computer, or not whole.", name=name)
            about = _(
                "It comes from huggingface.co, into the cache that other tools share: some "
                "gigabytes. Only for such a download does the studio ask another machine for "
                "anything."
            )
            return f"<p>{missing}</p><p class='soft'>{about}</p>{_download(_('Download it'))}"
        case "done":
            note = told(job.result.get("note", ""))
            return (
                f"<p><b>{escape(model_words(job))}</b> {name}</p>"
                + (f"<p class='soft'>{escape(note)}</p>" if note else "")
                + "<button type='button' class='button primary' data-event='use_inspected'>"
                f"{_('Use this model')}</button>"
            )
        case _:
            return ""


def _download(label: str) -> str:
    return (
        f"<button type='button' class='button primary' data-event='download_model'>{label}</button>"
    )


def model_words(job: Job) -> str:
    """`my-model: Stable Diffusion, made for 512 pixels.`"""
    found = job.result
    return _(
        "{name}: {family}, made for {size_px} pixels.",
        name=found["name"],
        family=told(found["family"]),
        size_px=found["size_px"],
    )
