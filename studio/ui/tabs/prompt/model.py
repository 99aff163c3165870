"""The base model of a session: the current one, another one, and the library."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from html import escape

import gradio as gr

from studio.paths import typed
from studio.settings import STARTER_SIZE_PX, SessionSettings, SettingsError, is_hub_id
from studio.store import Store
from studio.store.rows import Job, Session
from studio.ui.models import family_of
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.prompt import library
from studio.ui.widgets import click_events

LOADING = "The first pairs take a while: it is loaded first."


def build(page: Page) -> None:
    """The current model, the library, a field for any other model, and the library's folders."""
    store = page.store
    card = _html("model-card", "use_starter", "use_copy", "use_changed")
    cards = _html("library", "use_known")
    path = gr.Textbox(
        label="Another model",
        info="The path of a .safetensors checkpoint or a diffusers folder, or its name on the "
        "Hugging Face hub, owner/name (Stable Diffusion 1, 2 or XL).",
        placeholder="/home/me/models/my-model.safetensors",
        lines=1,
        elem_id="model-path",
    )
    check = gr.Button("Look at this model", elem_id="model-check")
    found = _html("model-found", "use_inspected", "download_model", "stop_download")
    folder = gr.Textbox(
        label="A folder of models",
        info="Of A1111, Forge, ComfyUI or InvokeAI, the cache of the hub, or any: all models in it "
        "are shown here, and stay where they are.",
        placeholder=str(library.HUB_CACHE),
        lines=1,
        elem_id="model-folder",
    )
    add = gr.Button("Show its models", elem_id="model-folder-add")
    folders = _html("model-sources", "search", "forget_folder")

    def view(snapshot: StoreSnapshot) -> Values:
        return {
            card: model_card(snapshot),
            found: inspected_model(snapshot),
            cards: library.model_cards(snapshot),
            folders: library.folder_list(snapshot, store.model_folders()),
        }

    page.show(view, [card, cards, found, folders])
    page.fill(lambda _: {path: "", folder: ""}, [path, folder])

    def add_folder(session: Session, text: str) -> Values:
        try:
            store.set_model_folders(library.with_folder(store.model_folders(), text))
        except ValueError as error:
            raise SettingsError(str(error)) from error
        store.add_job(session.id, "library", {})
        return {folder: ""}

    def inspect(session: Session, text: str) -> None:
        if not typed(text):
            raise SettingsError("Write the path or the name of a model first.")
        store.add_job(session.id, "inspect", {"path": typed(text)})

    for event in (add.click, folder.submit):
        page.on(event, add_folder, inputs=[folder], outputs=[folder])
    for event in (check.click, path.submit):
        page.on(event, inspect, inputs=[path])
    for event, handler in (
        (card.use_starter, use_starter),
        (card.use_copy, use_copy),
        (card.use_changed, use_changed),
        (cards.use_known, use_known),
        (found.use_inspected, use_inspected),
        (found.download_model, download_model),
        (found.stop_download, stop_download),
        (folders.search, search),
        (folders.forget_folder, forget_folder),
    ):
        page.on(event, partial(handler, store), with_event=True, refill=True)


def _html(elem_id: str, *events: str) -> gr.HTML:
    return gr.HTML(apply_default_css=False, elem_id=elem_id, js_on_load=click_events(*events))


# --- the buttons ---------------------------------------------------------------------------------


def use_starter(store: Store, session: Session, event: gr.EventData) -> str:
    change_model(store, session, "starter", STARTER_SIZE_PX)
    return "The starter model is in use again."


def use_copy(store: Store, session: Session, event: gr.EventData) -> str:
    """Continue with the same model at another path."""
    store.move_model_of(session.id, _name(event))
    return "The session goes on with the same model from there."


def use_changed(store: Store, session: Session, event: gr.EventData) -> str:
    """Accept that the model's file has changed."""
    store.take_changed_model(session.id)
    return "The session goes on with the changed file."


def use_known(store: Store, session: Session, event: gr.EventData) -> str:
    """Use a model of the library."""
    known = store.known_model(_name(event))
    if known is None or not known.family:
        raise SettingsError("This model is not known any more: look again.")
    change_model(store, session, known.base_model, known.size_px, family_of(known).eta)
    return f"{known.name} is in use now. {LOADING}"


def use_inspected(store: Store, session: Session, event: gr.EventData) -> str:
    """Use the model that was inspected, at the size it was made for."""
    job = newest_request(StoreSnapshot(store))
    if job is None or job.state != "done":
        return "Look at the model first."
    base_model = job.result.get("base_model", requested_model(job))
    eta = family_of(store.known_model(base_model)).eta
    change_model(store, session, base_model, int(job.result["size_px"]), eta)
    return f"This model is in use now. {LOADING}"


def download_model(store: Store, session: Session, event: gr.EventData) -> None:
    """Download the requested model from the hub."""
    if job := newest_request(StoreSnapshot(store)):
        store.add_job(session.id, "download", {"repo": requested_model(job)})


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


def change_model(
    store: Store, session: Session, base_model: str, size_px: int, eta: float = 1.0
) -> None:
    store.change_settings(session.id, lambda now: with_model(now, base_model, size_px, eta))


def with_model(
    settings: SessionSettings, base_model: str, size_px: int, eta: float = 1.0
) -> SessionSettings:
    """The settings for another base model, at its own size and with its family's eta.

    Clip skip and a LoRA to start from belonged to the model before.
    """
    sampling = replace(settings.sampling, width_px=size_px, height_px=size_px, clip_skip=1, eta=eta)
    return replace(
        settings,
        base_model=base_model,
        model_hash="",
        model_bytes=0,
        start=None,
        sampling=sampling,
    )


# --- the HTML ------------------------------------------------------------------------------------


def model_card(snapshot: StoreSnapshot) -> str:
    """The current model, and any problem with its file."""
    base_model = snapshot.settings.base_model
    if base_model == "starter":
        return (
            "<p><b>Starter model</b> is in use. It is in the box, small, quick on any machine, and "
            "draws emoji-like pictures: made to learn how this studio works.</p>"
            f"{library.model_problem(snapshot)}"
        )
    warning = (
        "<p class='soft'>What was learned with another model stays with that model.</p>"
        if snapshot.adapters
        else ""
    )
    known = snapshot.model
    about = ""
    if known is not None and known.family:
        base_hash = f" · {known.base_hash[:10]}" if known.base_hash else ""
        about = f"{known.words} · {library.gigabytes(known.bytes)}{base_hash}"
    return (
        f"<p>In use: <code>{escape(base_model)}</code></p>"
        + (f"<p class='soft'>{escape(about)}</p>" if about else "")
        + f"{library.model_problem(snapshot)}{warning}"
        "<button type='button' class='button' data-event='use_starter'>Back to the starter model"
        "</button>"
    )


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
                f"<p class='working-line'>Downloading {name}</p>"
                f"<p><progress value='{job.progress:.4f}' max='1'></progress> "
                f"{escape(job.message)}</p>"
                "<button type='button' class='button' data-event='stop_download'>Stop</button>"
            )
        case "queued" | "running":
            return f"<p class='working-line'>Looking at {name}</p>"
        case "cancelled" if is_download:
            return f"<p>Stopped. What came whole of {name} is kept.</p>{_download('Go on')}"
        case "failed" if is_download:
            problem = f"<p class='problem' role='alert'>{escape(job.message)}</p>"
            return f"{problem}{_download('Try again')}"
        case "failed":
            if not is_hub_id(requested_model(job)):
                return f"<p class='problem' role='alert'>{escape(job.message)}</p>"
            return (
                f"<p>{name} is not on this computer, or not whole.</p>"
                "<p class='soft'>It comes from huggingface.co, into the cache that other "
                "tools share: some gigabytes. Only for such a download does the studio ask another "
                f"machine for anything.</p>{_download('Download it')}"
            )
        case "done":
            note = job.result.get("note", "")
            return (
                f"<p><b>{escape(model_words(job))}</b> {name}</p>"
                + (f"<p class='soft'>{escape(note)}</p>" if note else "")
                + "<button type='button' class='button primary' data-event='use_inspected'>"
                "Use this model</button>"
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
    return f"{found['name']}: {found['family']}, made for {found['size_px']} pixels."
