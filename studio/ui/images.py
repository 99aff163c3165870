"""Pictures and exported files, which are served by their ids, never by a path."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response

from studio import __version__
from studio.files import sha256
from studio.messages import SOURCE as ENGLISH
from studio.messages import _, speaking, told
from studio.pictures.files import (
    MOST_BYTES,
    animation,
    parameters_of,
    png_with_text,
    sheet,
    thumbnail,
)
from studio.pictures.infotext import Parameters, ParametersError, loras_in, read, write
from studio.settings import SessionSettings
from studio.store import Image, Store, StoreError, write_atomically
from studio.store.rows import MIX, SOURCE, SOURCE_MODEL, SOURCE_SETTINGS
from studio.ui.guard import BYTES
from studio.ui.models import family_of
from studio.ui.previews import previews_by_round

THUMBNAIL_PX = 320  # the longer side: twice the size in the gallery, for fine screens
MODEL_PX = 320  # the longer side of a model's picture

# Fixed here, because systems differ in their tables. Any other file can only be downloaded.
TYPES = {".png": "image/png", ".jpg": "image/jpeg"}

# An id is never used for another file, so a browser may cache it for ever.
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}


def routes(store: Store) -> APIRouter:
    """The routes of pictures, stories and exports.

    `/images/ID` is the picture for the screen, `/images/ID/thumbnail` a small one,
    `/images/ID/master` the PNG as it was drawn, and `/images/ID/download` the PNG with its settings
    in it. `/stories/…` shows all rounds in one file. `/parameters` receives a picture of any
    program and answers with its settings, {"ok", "made"}, or {"ok", "sentence"}.
    """
    router = APIRouter()

    @router.get("/images/{image_id}")
    def display(image_id: str) -> FileResponse:
        return _file(lambda: store.display_path(store.image(image_id)), FOREVER)

    @router.get("/images/{image_id}/master")
    def master(image_id: str) -> FileResponse:
        return _file(lambda: store.image_path(store.image(image_id)), FOREVER)

    @router.get("/images/{image_id}/thumbnail")
    def small(image_id: str) -> Response:
        try:
            data = thumbnail_of(store, store.image(image_id))
            return Response(data, headers=FOREVER, media_type="image/jpeg")
        except StoreError as error:
            raise HTTPException(404, str(error)) from error
        except OSError as error:  # missing or damaged
            raise HTTPException(404, _("This picture cannot be read.")) from error

    @router.get("/models/preview")
    def model_preview(model: str) -> Response:
        known = store.known_model(model)  # no other file is served
        try:
            data = thumbnail(Path(known.preview), MODEL_PX) if known and known.preview else None
        except OSError:
            data = None
        if data is None:
            raise HTTPException(404, _("There is no picture of this model that can be read."))
        return Response(data, headers={"Cache-Control": "no-cache"}, media_type="image/jpeg")

    @router.get("/images/{image_id}/download")
    def download(image_id: str) -> Response:
        try:
            image = store.image(image_id)
            path, made = store.image_path(image), made_with(store, image)
        except StoreError as error:
            raise HTTPException(404, str(error)) from error
        if not path.is_file():
            raise HTTPException(404, _("This file is missing from the studio's folder."))
        try:
            data = png_with_text(path, write(made))
        except OSError as error:
            raise HTTPException(404, _("This picture cannot be read.")) from error
        return as_download(data, "image/png", f"{file_stem(image)}.png")

    @router.post("/parameters")
    async def parameters(request: Request) -> dict[str, object]:
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > MOST_BYTES:
                break
        return await run_in_threadpool(_settings_of, bytes(data))

    @router.get("/stories/{session_id}/{name}")
    def story(session_id: str, name: str) -> Response:
        form = {"story.png": "PNG", "story.webp": "WEBP", "story.gif": "GIF"}.get(name)
        if form is None:
            raise HTTPException(404)
        try:
            prompts = store.session(session_id).settings.shown_prompts
            with speaking(ENGLISH):  # what is drawn into a picture has letters of one font alone
                rounds = previews_by_round(store, session_id)
        except StoreError as error:
            raise HTTPException(404, str(error)) from error
        rows = [(title, [_existing(store, image) for image in images]) for title, images in rounds]
        if not any(path for _, paths in rows for path in paths):
            raise HTTPException(404, _("There is no picture of this session yet."))
        try:
            data = sheet(rows, prompts) if form == "PNG" else animation(rows, form)
        except OSError as error:
            raise HTTPException(404, _("A picture of this session cannot be read.")) from error
        return as_download(data, f"image/{form.lower()}", name)

    @router.get("/exports/{session_id}/{export_id}/{name}")
    def exported(session_id: str, export_id: str, name: str) -> FileResponse:
        def path() -> Path:
            known = {export.id: export for export in store.exports(session_id)}
            if export_id not in known or name not in known[export_id].files:
                raise StoreError(_("There is no such export."))
            return store.export_path(session_id, export_id) / name

        return _file(path, {"Cache-Control": "private, no-cache"}, download=name)

    return router


def thumbnail_of(store: Store, image: Image) -> bytes:
    """The small copy of a picture: made once for all pictures with the same content.

    The checksum is that of the file as it is now, and not the row's, which an archive may have
    brought. Raises OSError if the picture cannot be read.
    """
    path = store.display_path(image)
    kept = store.thumbnail_path(sha256(path))
    if kept.is_file():
        return kept.read_bytes()
    data = thumbnail(path, THUMBNAIL_PX)
    with contextlib.suppress(StoreError):  # a full disk: then it is made again
        write_atomically(kept, lambda draft: draft.write_bytes(data))
    return data


def _settings_of(data: bytes) -> dict[str, object]:
    """The settings in a picture, or a sentence about why there are none."""
    try:
        parameters = parameters_of(data)
    except ParametersError as error:
        return {"ok": False, "sentence": told(str(error))}
    # as a text: JavaScript would round the longest seeds
    return {"ok": True, "made": json.dumps(asdict(parameters))}


def _existing(store: Store, image: Image | None) -> Path | None:
    """The file of a picture, if it exists."""
    path = image and store.image_path(image)
    return path if path and path.is_file() else None


def _file(
    find: Callable[[], Path], headers: dict[str, str], download: str | None = None
) -> FileResponse:
    try:
        path = find()
    except StoreError as error:
        raise HTTPException(404, str(error)) from error
    if not path.is_file():
        raise HTTPException(404, _("This file is missing from the studio's folder."))
    kind = TYPES.get(path.suffix, BYTES)
    return FileResponse(path, headers=headers, media_type=kind, filename=download)


def image_url(image_id: str) -> str:
    """The address of a picture."""
    return f"/images/{image_id}"


def thumbnail_url(image_id: str) -> str:
    """The address of a small copy; 404 if the file is missing."""
    return f"/images/{image_id}/thumbnail"


def model_preview_url(base_model: str) -> str:
    """The address of the picture that lies beside a model."""
    return f"/models/preview?model={quote(base_model, safe='')}"


def as_download(data: bytes, kind: str, name: str) -> Response:
    """An answer that the browser saves. `name`: plain letters only."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(data, media_type=kind, headers=headers)


def file_stem(image: Image) -> str:
    """`a-red-apple-7`: a file name for every system, without its extension."""
    words = re.sub(r"[^a-z0-9]+", "-", image.prompt.lower()).strip("-")[:60].strip("-")
    return f"{words or 'picture'}-{image.seed}"


def source_of(image: Image) -> str:
    """Where a picture comes from that was not drawn here; "" for a drawn one."""
    if image.is_own:
        return _("Your own art")
    if SOURCE not in image.companions:
        return ""
    model = image.companions.get(SOURCE_MODEL)
    return _("From your folder, by {model}", model=model) if model else _("From your folder")


def made_with(store: Store, image: Image) -> Parameters:
    """The settings of a picture, for other tools to read."""
    if SOURCE in image.companions:
        return _made_elsewhere(image)
    loras: tuple[tuple[str, float], ...] = ()
    if image.adapter_id is not None:
        number = store.adapter(image.adapter_id).number
        loras = (
            (
                f"{store.session(image.session_id).name} round {number}",
                image.strength,
            ),
        )
    companions = dict(image.companions)
    loras += loras_in(companions.pop(MIX, ""))
    return Parameters(
        prompt=image.prompt,
        negative_prompt=image.sampling.negative_prompt,
        steps=image.sampling.steps,
        sampler=_sampler(store, image),
        guidance=image.sampling.guidance,
        seed=image.seed,
        width_px=image.sampling.width_px,
        height_px=image.sampling.height_px,
        eta=image.sampling.eta,
        clip_skip=image.sampling.clip_skip,
        model=model_name(store, image),
        model_hash=image.base_hash[:10],
        loras=loras,
        more=start_lora(store, image) | companions | {"Version": f"D3PO Studio {__version__}"},
    )


def _made_elsewhere(image: Image) -> Parameters:
    """The settings that a picture of a folder came with."""
    with contextlib.suppress(ParametersError):
        return read(image.companions.get(SOURCE_SETTINGS, ""))
    return Parameters(prompt=image.prompt, more={SOURCE: image.companions[SOURCE]})


def model_name(store: Store, image: Image) -> str:
    """The name of the session's model, if it is still the one that drew the picture."""
    settings = drawn_by(store, image)
    return Path(settings.base_model).stem if settings else ""


def _sampler(store: Store, image: Image) -> str:
    settings = drawn_by(store, image)
    return family_of(store.known_model(settings.base_model) if settings else None).sampler


def start_lora(store: Store, image: Image) -> dict[str, str]:
    """The LoRA that the session's model starts from, if it drew the picture."""
    settings = drawn_by(store, image)
    if settings is None or settings.start is None:
        return {}
    return {"Start LoRA": f"{Path(settings.start.path).stem} at {settings.start.strength:g}"}


def drawn_by(store: Store, image: Image) -> SessionSettings | None:
    """The session's settings, if its model is still the one that drew the picture."""
    newest = store.images(image.session_id, "preview", adapter_id=None, limit=1)
    if not newest or newest[0].base_hash != image.base_hash:
        return None
    return store.session(image.session_id).settings
