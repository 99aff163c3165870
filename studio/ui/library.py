"""The models that there are to choose from, and what has become of the one in use."""

from __future__ import annotations

from html import escape
from pathlib import Path

from studio.paths import expanded, typed
from studio.settings import SessionSettings, is_hub_id
from studio.store.rows import Job, KnownModel
from studio.ui import words
from studio.ui.images import model_preview_url
from studio.ui.page import Look

HUB_CACHE = Path.home() / ".cache" / "huggingface" / "hub"  # where it is, unless told otherwise


def added(folders: list[str], text: str) -> list[str]:
    """The folders with one more. Raises ValueError with a sentence for what is none."""
    path = expanded(typed(text))
    if not typed(text):
        raise ValueError("Write the path of a folder first.")
    try:
        if not path.is_dir():
            raise ValueError(f"There is no folder at {path}.")
    except OSError as error:
        raise ValueError(f"{path} cannot be looked into: {error.strerror or error}.") from error
    return [*folders, str(path.absolute())]


def inside(folder: str, models: list[KnownModel]) -> list[str]:
    """Those of the models that lie in a folder and were never used: what goes with it."""
    root = Path(folder)
    return [
        one.base_model
        for one in models
        if not one.base_hash and root in Path(one.base_model).parents
    ]


def shelf(look: Look) -> str:
    """All models as cards to click, but for one that `trouble` says is gone."""
    in_use = look.settings.base_model
    there = [one for one in look.library if one.base_model != in_use or _is_there(in_use)]
    cards = "".join(_card(one, look.settings) for one in there)
    return f"<div class='models' role='group' aria-label='Models'>{cards}</div>" if cards else ""


def sources(look: Look, folders: list[str]) -> str:
    """The folders that models come from, and what was found in them."""
    job = look.newest_job("library")
    is_looking = job is not None and job.state in ("queued", "running")
    listed = "".join(
        f"<li><code>{escape(folder)}</code> <button type='button' class='button quiet small' "
        f"data-model='forget' data-name='{escape(folder, quote=True)}' "
        f"aria-label='Leave out {escape(folder, quote=True)}'>Leave out</button></li>"
        for folder in folders
    )
    if not listed:
        return _said(job) if is_looking else ""
    again = "<button type='button' class='button small' data-model='look'>Look again</button>"
    return f"<ul class='model-folders'>{listed}</ul>{_said(job)}{'' if is_looking else again}"


def _card(one: KnownModel, settings: SessionSettings) -> str:
    name = escape(one.base_model, quote=True)
    pressed = str(one.base_model == settings.base_model).lower()
    picture = "<span class='picture none' aria-hidden='true'></span>"
    if one.preview:
        address = escape(model_preview_url(one.base_model), quote=True)
        picture = f"<img class='picture' src='{address}' alt='' loading='lazy'>"
    about = [one.words, gigabytes(one.bytes), *([one.base_hash[:10]] if one.base_hash else [])]
    return (
        f"<button type='button' class='model' data-model='library' data-name='{name}' "
        f"aria-pressed='{pressed}' title='{name}'>{picture}<b>{escape(one.name)}</b>"
        f"<small>{escape(' · '.join(about))}</small></button>"
    )


def _said(job: Job | None) -> str:
    if job is None:
        return ""
    match job.state:
        case "queued" | "running":
            return f"<p class='working-line'>Looking for models. {escape(job.message)}</p>"
        case "failed":
            return f"<p class='problem' role='alert'>{escape(job.message)}</p>"
        case "done":
            found, others = job.result.get("models", 0), job.result.get("others", 0)
            line = f"<p class='soft'>{words.count(found, 'model')} found.</p>"
            if not others:
                return line
            told = job.result.get("problems", [])
            lines = "".join(f"<li>{escape(str(one))}</li>" for one in told)
            more = f"<li>and {others - len(told)} more</li>" if others > len(told) else ""
            title = words.count(others, "other file")
            return (
                f"{line}<details class='soft'><summary>{title}</summary>"
                f"<ul>{lines}{more}</ul></details>"
            )
        case _:
            return ""


def trouble(look: Look) -> str:
    """What has become of the session's model, if it has changed or gone, and how to go on."""
    settings = look.settings
    is_gone = not _is_there(settings.base_model)
    known = look.model
    has_changed = bool(
        known and known.base_hash and settings.model_hash not in ("", known.base_hash)
    )
    if not is_gone and not has_changed:
        return ""
    same = [
        one
        for one in look.library
        if settings.model_hash
        and one.base_hash == settings.model_hash
        and one.base_model != settings.base_model
        and _is_there(one.base_model)
    ]
    what = "The model of this session is not there any more."
    if has_changed and not is_gone:
        what = (
            "The file of this session’s model has changed since it was first used. What was picked "
            "and learned belongs to what it was."
        )
    offers = "".join(
        f"<p>The same model lies at <code>{escape(one.base_model)}</code>.</p>"
        f"<button type='button' class='button primary' data-model='move' "
        f"data-name='{escape(one.base_model, quote=True)}'>Go on with it</button>"
        for one in same[:3]
    )
    if not same:
        offers = "<p>Put it back, or add the folder where it is now below: it is known again by "
        offers += "its hash.</p>" if settings.model_hash else "its name.</p>"
    anew = (
        "<button type='button' class='button' data-model='anew'>Begin with the changed file"
        "</button>"
        if has_changed and not is_gone
        else ""
    )
    return f"<div class='problem' role='alert'><p>{what}</p></div>{offers}{anew}"


def _is_there(base_model: str) -> bool:
    if base_model == "starter" or is_hub_id(base_model):
        return True
    try:
        return expanded(base_model).exists()
    except (OSError, ValueError):
        return False


def gigabytes(size_bytes: int) -> str:
    """`6.9 GB`, or `120 MB`."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"
