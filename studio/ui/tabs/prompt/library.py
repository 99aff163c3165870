"""The models to choose from, and a session's model that has changed or is gone."""

from __future__ import annotations

from html import escape
from pathlib import Path

from studio.messages import _, ngettext, told
from studio.paths import expanded, typed
from studio.settings import SessionSettings, is_hub_id
from studio.store.rows import Job, KnownModel
from studio.ui.images import model_preview_url
from studio.ui.jobs import is_open
from studio.ui.snapshot import StoreSnapshot

HUB_CACHE = Path.home() / ".cache" / "huggingface" / "hub"  # its usual path
MAX_OFFERS = 3  # copies of a session's model, wherever they were found


def with_folder(folders: list[str], text: str) -> list[str]:
    """The folders and one more, as the artist typed it. Raises ValueError if it is no folder."""
    path = expanded(typed(text))
    if not typed(text):
        raise ValueError(_("Write the path of a folder first."))
    try:
        if not path.is_dir():
            raise ValueError(_("There is no folder at {path}.", path=path))
    except OSError as error:
        raise ValueError(
            _("{path} cannot be looked into: {reason}.", path=path, reason=error.strerror or error)
        ) from error
    return [*folders, str(path.absolute())]


def unused_inside(folder: str, models: list[KnownModel]) -> list[str]:
    """The models in a folder that were never used: they are forgotten together with it."""
    root = Path(folder)
    return [
        model.base_model
        for model in models
        if not model.base_hash and root in Path(model.base_model).parents
    ]


def model_cards(snapshot: StoreSnapshot) -> str:
    """All models as buttons, except a current one that `model_problem` reports as gone."""
    current = snapshot.settings.base_model
    starter = str(current == "starter").lower()
    models = [
        m for m in snapshot.store.usable_models() if m.base_model != current or is_there(current)
    ]
    cards = "".join(_card(model, snapshot.settings) for model in models)
    return (
        f"<div class='models' role='group' aria-label='{_('Models')}'>"
        f"<button type='button' class='model' data-event='use_starter' aria-pressed='{starter}'>"
        f"{no_picture(_('Starter model'))}<b>{_('Starter model')}</b>"
        f"<small>{_('In the box')}</small></button>{cards}</div>"
    )


def folder_list(snapshot: StoreSnapshot, folders: list[str]) -> str:
    """The folders that are searched for models, and the result of the newest search."""
    job = snapshot.newest_job("library")
    items = "".join(
        f"<li><code>{escape(folder)}</code> <button type='button' class='button quiet small' "
        f"data-event='forget_folder' data-name='{escape(folder, quote=True)}' "
        f"aria-label='{_('Leave out {name}', name=escape(folder, quote=True))}'>"
        f"{_('Leave out')}</button></li>"
        for folder in folders
    )
    if not items:
        return _search_result(job) if is_open(job) else ""
    again = (
        f"<button type='button' class='button small' data-event='search'>{_('Look again')}</button>"
    )
    return (
        f"<ul class='model-folders'>{items}</ul>{_search_result(job)}"
        f"{'' if is_open(job) else again}"
    )


def _card(model: KnownModel, settings: SessionSettings) -> str:
    name = escape(model.base_model, quote=True)
    pressed = str(model.base_model == settings.base_model).lower()
    picture = no_picture(model.name)
    if model.preview:
        url = escape(model_preview_url(model.base_model), quote=True)
        picture = f"<img class='picture' src='{url}' alt='' loading='lazy'>"
    return (
        f"<button type='button' class='model' data-event='use_known' data-name='{name}' "
        f"aria-pressed='{pressed}' title='{name}'>{picture}<b>{escape(model.name)}</b>"
        f"<small>{facts_of(model)}</small></button>"
    )


def no_picture(name: str) -> str:
    """In the place of a picture that there is not: the first letter of the name."""
    return f"<span class='picture none' aria-hidden='true'>{escape(name[:1].upper())}</span>"


def facts_of(model: KnownModel) -> str:
    """`Stable Diffusion XL · 6.9 GB · 0123456789 · licence openrail++`"""
    licence = _("licence {name}", name=model.licence) if model.licence else ""
    facts = (told(model.words), gigabytes(model.bytes), model.base_hash[:10], licence)
    return escape(" · ".join(filter(None, facts)))


def _search_result(job: Job | None) -> str:
    if job is None:
        return ""
    match job.state:
        case "queued" | "running":
            return (
                f"<p class='working-line'>{_('Looking for models.')} "
                f"{escape(told(job.message))}</p>"
            )
        case "failed":
            return f"<p class='problem' role='alert'>{escape(told(job.message))}</p>"
        case "done":
            models, others = job.result.get("models", 0), job.result.get("others", 0)
            found = ngettext("{number} model found.", "{number} models found.", models)
            line = f"<p class='soft'>{found}</p>"
            return f"{line}{_others(others, job.result.get('problems', []))}"
        case _:
            return ""


def _others(number: int, problems: list[str]) -> str:
    """Files that are no models, each with its reason, in a list that opens."""
    if not number:
        return ""
    lines = "".join(f"<li>{escape(told(str(problem)))}</li>" for problem in problems)
    if number > len(problems):
        lines += f"<li>{_('and {number} more', number=number - len(problems))}</li>"
    title = ngettext("{number} other file", "{number} other files", number)
    return f"<details class='soft'><summary>{title}</summary><ul>{lines}</ul></details>"


def model_problem(snapshot: StoreSnapshot) -> str:
    """A warning if the session's model has changed or is gone, with the ways to continue."""
    settings, known = snapshot.settings, snapshot.model
    is_gone = not is_there(settings.base_model)
    has_changed = bool(
        known and known.base_hash and settings.model_hash not in ("", known.base_hash)
    )
    if not is_gone and not has_changed:
        return _unusable(known) if known is not None and known.problem else ""
    problem = _("The model of this session is not there any more.")
    restart = ""
    if settings.base_model == "starter":
        problem = _(
            "This session was made with another starter model than the one that is in this version "
            "of the studio. Its pictures, picks and rounds are kept. What was learned belongs to "
            "the model that it was."
        )
        restart = (
            "<button type='button' class='button' data-event='use_changed'>"
            f"{_('Begin with the new starter model')}</button>"
        )
    elif not is_gone:
        problem = _(
            "The file of this session’s model has changed since it was first used. What was picked "
            "and learned belongs to what it was."
        )
        restart = (
            "<button type='button' class='button' data-event='use_changed'>"
            f"{_('Begin with the changed file')}</button>"
        )
    offers = "".join(
        f"<p>{_same_model_at(copy)}</p>"
        f"<button type='button' class='button primary' data-event='use_copy' "
        f"data-name='{escape(copy.base_model, quote=True)}'>"
        f"{_('Go on with it')}</button>"
        for copy in _copies(snapshot)[:MAX_OFFERS]
    )
    if not offers:
        advice = (
            _(
                "Put it back, or press Change and add the folder where it is now: it is known "
                "again by its hash."
            )
            if settings.model_hash
            else _(
                "Put it back, or press Change and add the folder where it is now: it is known "
                "again by its name."
            )
        )
        offers = f"<p>{advice}</p>"
    return f"<div class='problem' role='alert'><p>{problem}</p></div>{offers}{restart}"


def _same_model_at(copy: KnownModel) -> str:
    return _("The same model lies at <code>{path}</code>.", path=escape(copy.base_model))


def _unusable(model: KnownModel) -> str:
    """What the worker found to be wrong when it wanted to draw; a hub's model can be downloaded."""
    if is_hub_id(model.base_model) and not model.family:
        name = escape(model.base_model, quote=True)
        way_on = (
            "<button type='button' class='button primary' data-event='download_model' "
            f"data-name='{name}'>{_('Download it')}</button>"
        )
    else:
        way_on = f"<p>{_('Press Change to choose another model.')}</p>"
    return f"<div class='problem' role='alert'><p>{escape(told(model.problem))}</p></div>{way_on}"


def _copies(snapshot: StoreSnapshot) -> list[KnownModel]:
    """Other files with the hash of the session's model."""
    settings = snapshot.settings
    return [
        model
        for model in snapshot.store.usable_models()
        if settings.model_hash
        and model.base_hash == settings.model_hash
        and model.base_model != settings.base_model
        and is_there(model.base_model)
    ]


def is_there(base_model: str) -> bool:
    """Whether a model's file or folder exists; what the hub and the studio keep counts as there."""
    if base_model == "starter" or is_hub_id(base_model):
        return True
    try:
        return expanded(base_model).exists()
    except (OSError, ValueError):
        return False


def gigabytes(size_bytes: int) -> str:
    """`6.9 GB`, or `120 MB`."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"
