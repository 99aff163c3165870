"""Sessions as files of any size: saved to the artist's disk, and read from there."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from studio.files import TEMPORARY_PREFIX, free_bytes, remove
from studio.messages import N_, _, told
from studio.store import Store, StoreError, import_session, outgoing_archive
from studio.store.archive import SPARE_BYTES
from studio.store.files import full_sentence, is_full
from studio.ui.guard import ARCHIVES_PATH

log = logging.getLogger("studio.web")


def routes(store: Store) -> APIRouter:
    """`GET /sessions/ID.zip` sends a session; `POST /sessions` imports one and opens it.

    The answer to an import is {"ok", "sentence"}.
    """
    router = APIRouter()

    @router.get(f"{ARCHIVES_PATH}/{{session_id}}.zip")
    def save(session_id: str) -> StreamingResponse:
        try:
            name = store.session(session_id).name
            outgoing = outgoing_archive(store, session_id)
        except StoreError as error:
            raise HTTPException(404, str(error)) from error
        if outgoing.missing:
            log.warning("%d files were missing and are not in the archive", outgoing.missing)
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, '')}.zip"}
        return StreamingResponse(outgoing.parts, headers=headers, media_type="application/zip")

    @router.post(ARCHIVES_PATH)
    async def take(request: Request) -> dict[str, object]:
        # The guard refuses a request without its length.
        needed = int(request.headers.get("content-length", 0))
        free = free_bytes(store.home)
        if 2 * needed + SPARE_BYTES > free:  # the file and its contents
            return _no(
                _(
                    "This file needs {needed} MB for a moment, and the disk that holds {home} has "
                    "{free} MB. Make some room and try again.",
                    needed=2 * needed // 1_000_000,
                    home=store.home,
                    free=free // 1_000_000,
                )
            )
        draft = store.home / "imports" / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}.zip"
        try:
            await _receive(request, draft)
            made = await run_in_threadpool(import_session, store, draft)
            store.set_last_session(made.id)
        except StoreError as error:
            # The artist does not know the draft's name.
            return _no(told(str(error).replace(draft.name, N_("This file"))))
        except OSError as error:
            if is_full(error):
                return _no(told(full_sentence(store.home)))
            log.exception("An archive could not be received")
            return _no(_("The file could not be kept: the disk reports an error."))
        finally:
            await run_in_threadpool(remove, draft)
        return {"ok": True, "sentence": _("“{name}” is here, and open.", name=made.name)}

    return router


async def _receive(request: Request, draft: Path) -> None:
    await run_in_threadpool(draft.parent.mkdir, parents=True, exist_ok=True)
    file = await run_in_threadpool(draft.open, "wb")
    try:
        async for part in request.stream():
            await run_in_threadpool(file.write, part)
    finally:
        await run_in_threadpool(file.close)


def _no(sentence: str) -> dict[str, object]:
    return {"ok": False, "sentence": sentence}
