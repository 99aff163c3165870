"""The model of a session, first on the tab: its name, picture and family, and what is wrong."""

from __future__ import annotations

from html import escape
from pathlib import Path

from studio.messages import N_, _
from studio.settings import SessionSettings, StartLora, is_hub_id
from studio.store.rows import Image, KnownModel
from studio.ui.images import model_preview_url, thumbnail_url
from studio.ui.snapshot import StoreSnapshot
from studio.ui.tabs.prompt import library

STARTER = N_(
    "In the box, small, quick on any machine. It draws emoji-like pictures: made to learn how this "
    "studio works."
)
MOST_READ = 60  # pictures, among which one of the model is looked for


def model_card(snapshot: StoreSnapshot) -> str:
    """What is known of the model, its picture, the LoRA it starts from, and any problem."""
    settings, known = snapshot.settings, snapshot.model
    path = escape(settings.base_model, quote=True)
    return (
        f"{_picture(snapshot)}<div><h2 class='model-name' title='{path}'>"
        f"{escape(name_of(settings, known))}</h2>{_about(settings, known)}{_start(settings.start)}"
        f"{library.model_problem(snapshot)}{_warning(snapshot)}</div>"
    )


def name_of(settings: SessionSettings, known: KnownModel | None) -> str:
    """The name of a session's model; of one that was never inspected, its file's."""
    if settings.base_model == "starter":
        return _("Starter model")
    if known is not None and known.name:
        return known.name
    return settings.base_model if is_hub_id(settings.base_model) else Path(settings.base_model).stem


def _about(settings: SessionSettings, known: KnownModel | None) -> str:
    if settings.base_model == "starter":
        return f"<p class='soft'>{_(STARTER)}</p>"
    facts = _("It is looked at before the first picture.")
    if known is not None and known.family:
        facts = library.facts_of(known)
    elif known is not None:
        facts = ""
    lines = (facts, f"<code>{escape(settings.base_model)}</code>")
    return "".join(f"<p class='soft'>{line}</p>" for line in lines if line)


def _start(start: StartLora | None) -> str:
    if start is None:
        return ""
    name = escape(Path(start.path).name)
    if not library.is_there(start.path):
        gone = _(
            "The LoRA that it starts from, {name}, is not there any more. Put it back, or start "
            "without it, under “Start from a LoRA”.",
            name=name,
        )
        return f"<div class='problem' role='alert'><p>{gone}</p></div>"
    line = _(
        "Starts from the LoRA <b>{name}</b> at strength {strength:g}.",
        name=name,
        strength=start.strength,
    )
    return f"<p>{line}</p>"


def _warning(snapshot: StoreSnapshot) -> str:
    others = snapshot.adapters and snapshot.settings.base_model != "starter"
    sentence = _("What was learned with another model stays with that model.")
    return f"<p class='soft'>{sentence}</p>" if others else ""


def _picture(snapshot: StoreSnapshot) -> str:
    """Drawn here with this model, or the one beside its file."""
    drawn = _drawn(snapshot)
    if drawn is not None:
        alt = escape(_("Drawn with it: {prompt}", prompt=drawn.prompt), quote=True)
        return f"<img class='picture' src='{thumbnail_url(drawn.id)}' alt='{alt}'>"
    if snapshot.model is not None and snapshot.model.preview:
        url = escape(model_preview_url(snapshot.model.base_model), quote=True)
        return f"<img class='picture' src='{url}' alt='{_('The picture beside its file')}'>"
    return library.no_picture(name_of(snapshot.settings, snapshot.model))


def _drawn(snapshot: StoreSnapshot) -> Image | None:
    """A picture of this session by the model alone, of the first prompt that has one."""
    settings = snapshot.settings
    pictures = [
        image
        for image in snapshot.store.images(
            snapshot.session.id, "preview", adapter_id=None, limit=MOST_READ
        )
        if settings.model_hash and image.base_hash == settings.model_hash
    ]
    order = {prompt: place for place, prompt in enumerate(settings.shown_prompts)}
    return min(pictures, key=lambda image: order.get(image.prompt, len(order)), default=None)
