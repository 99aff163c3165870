"""Pictures and exported files, served by the ids of the store and never by a path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

from studio.store import Store, StoreError

# A file's id is never given to another file, so a browser may keep it for good.
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}


def routes(store: Store) -> APIRouter:
    """`/images/ID` (to look at), `/images/ID/master` (PNG), `/exports/…` (to download)."""
    router = APIRouter()

    @router.get("/images/{image_id}")
    def display(image_id: str) -> FileResponse:
        return _file(lambda: store.display_path(store.image(image_id)), FOREVER)

    @router.get("/images/{image_id}/master")
    def master(image_id: str) -> FileResponse:
        return _file(lambda: store.image_path(store.image(image_id)), FOREVER)

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


def image_url(image_id: str) -> str:
    """Where the page finds a picture."""
    return f"/images/{image_id}"
