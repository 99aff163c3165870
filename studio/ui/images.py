"""Pictures and exported files, served by the ids of the store and never by a path."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, Response
from PIL import Image as Pictures

from studio.store import Store, StoreError

THUMBNAIL_PX = 144  # of the longer side: twice what the filmstrip shows, for fine screens

# A file's id is never given to another file, so a browser may keep it for good.
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}


def routes(store: Store) -> APIRouter:
    """`/images/ID` (to look at), `…/master` (PNG), `…/thumbnail`, `/exports/…` (to download)."""
    router = APIRouter()

    @router.get("/images/{image_id}")
    def display(image_id: str) -> FileResponse:
        return _file(lambda: store.display_path(store.image(image_id)), FOREVER)

    @router.get("/images/{image_id}/master")
    def master(image_id: str) -> FileResponse:
        return _file(lambda: store.image_path(store.image(image_id)), FOREVER)

    @router.get("/images/{image_id}/thumbnail")
    def thumbnail(image_id: str) -> Response:
        try:
            small = _thumbnail(store.display_path(store.image(image_id)))
            return Response(small, headers=FOREVER, media_type="image/jpeg")
        except StoreError as error:
            raise HTTPException(404, str(error)) from error
        except OSError as error:  # gone, or not a picture any more
            raise HTTPException(404, "This picture cannot be read.") from error

    @router.get("/exports/{session_id}/{export_id}/{name}")
    def exported(session_id: str, export_id: str, name: str) -> FileResponse:
        def path() -> Path:
            known = {export.id: export for export in store.exports(session_id)}
            if export_id not in known or name not in known[export_id].files:
                raise StoreError("There is no such export.")
            return store.export_path(session_id, export_id) / name

        return _file(path, {"Cache-Control": "private, no-cache"}, download=name)

    return router


def _file(
    find: Callable[[], Path], headers: dict[str, str], download: str | None = None
) -> FileResponse:
    try:
        path = find()
    except StoreError as error:
        raise HTTPException(404, str(error)) from error
    if not path.is_file():
        raise HTTPException(404, "This file is missing from the studio's folder.")
    return FileResponse(path, headers=headers, filename=download)


def _thumbnail(path: Path) -> bytes:
    """A small JPEG of a picture."""
    with Pictures.open(path) as picture:
        picture.draft("RGB", (2 * THUMBNAIL_PX, 2 * THUMBNAIL_PX))  # a large JPEG is read coarsely
        small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    made = io.BytesIO()
    small.save(made, "JPEG", quality=85)
    return made.getvalue()


def image_url(image_id: str) -> str:
    """Where the page finds a picture."""
    return f"/images/{image_id}"


def thumbnail_url(image_id: str) -> str:
    """Where the page finds it small; 404 where its file is missing."""
    return f"/images/{image_id}/thumbnail"
