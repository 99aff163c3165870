"""The web application: pages, pictures and downloads, behind one guard."""

from __future__ import annotations

import os
import shutil

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from studio.messages import _
from studio.runtime.support_report import report
from studio.store import Store
from studio.ui import archives, header, images, static, tour
from studio.ui.connections import Connection
from studio.ui.guard import LOOPBACK_NAMES, Forwarded, Guard
from studio.ui.languages import Languages, Pages
from studio.ui.page import Page
from studio.ui.tabs import compare, exam, export, gallery, prefer, prompt, train
from studio.ui.theme import theme


def build(store: Store, auth: tuple[str, str] | None = None, proxy: str | None = None) -> FastAPI:
    """The application.

    `auth`: (user, password); with it the application may be reached from other machines.
    `proxy`: the address of a proxy whose forwarding headers are believed.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Languages)
    app.add_middleware(Guard, auth=auth)
    app.add_middleware(Forwarded, proxy=proxy)
    app.include_router(static.routes())
    app.include_router(images.routes(store))
    app.include_router(archives.routes(store))

    @app.get("/report")
    def send_report() -> PlainTextResponse:
        status = store.worker_status()
        return PlainTextResponse(report(store.home, status.device if status else ""))

    return gr.mount_gradio_app(
        app,
        pages(store, is_local=auth is None),
        path="/",
        theme=theme(),
        head=static.head(),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        ssr_mode=False,
        show_error=False,
        max_file_size="32mb",
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
    )


def pages(store: Store, is_local: bool = True) -> gr.Blocks:
    """The six tabs of the work and the gallery, below their header."""
    with Pages(title="D3PO Studio", fill_width=True, analytics_enabled=False) as demo:
        page = Page(
            store=store,
            notice=header.notice_area(),
            shown_session=gr.State(""),
            sent=gr.State({}),
        )
        header.build(page)
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
            for name, label, build_tab in (
                ("prompt", _("Prompt"), prompt.build),
                ("prefer", _("Prefer"), prefer.build),
                ("train", _("Train"), train.build),
                ("compare", _("Compare"), compare.build),
                ("exam", _("Exam"), exam.build),
                ("export", _("Export"), lambda page: export.build(page, is_local)),
                ("gallery", _("Gallery"), gallery.build),
            ):
                # All tabs are rendered at once, so that values sent to any of them arrive.
                with gr.Tab(label, elem_id=f"tab-{name}", render_children=True):
                    build_tab(page)
        tour.build(page)
        page.finish(demo)
    return demo


def serve(
    store: Store,
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: tuple[str, str] | None = None,
    proxy: str | None = None,
) -> None:
    """Serve until interrupted. To listen beyond this machine it needs a name and a password."""
    if auth is None and host not in LOOPBACK_NAMES:
        raise ValueError("Listening beyond this machine needs a user and a password.")
    server(store, host, port, auth, proxy).run()


def server(
    store: Store,
    host: str,
    port: int,
    auth: tuple[str, str] | None = None,
    proxy: str | None = None,
) -> uvicorn.Server:
    """A server that is not started yet."""
    # Gradio's temporary files are for this run alone; a killed run has left some behind.
    temporary = store.home / "temporary"
    shutil.rmtree(temporary, ignore_errors=True)
    os.environ.setdefault("GRADIO_TEMP_DIR", str(temporary))
    config = uvicorn.Config(
        build(store, auth, proxy),
        host=host,
        port=port,
        log_config=None,  # errors belong in the log file, not in the terminal
        log_level="warning",
        access_log=False,
        server_header=False,
        http=Connection,
        backlog=64,  # accepted at once: even in a flood the other connections are read in turn
        ws="none",  # gradio opens no websocket; one would not be a Connection
        proxy_headers=False,  # see Forwarded: by default uvicorn believes anybody on 127.0.0.1
        timeout_graceful_shutdown=2,  # an open page keeps its stream open for ever
    )
    return uvicorn.Server(config)
