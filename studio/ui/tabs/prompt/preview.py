"""The first prompts as the model draws them now."""

from __future__ import annotations

from html import escape

import gradio as gr

from studio.messages import _, told
from studio.settings import SessionSettings
from studio.store.rows import Image, Session
from studio.ui.images import image_url
from studio.ui.jobs import cancel_queued, is_open, words_of
from studio.ui.page import Page
from studio.ui.previews import current_previews
from studio.ui.sessions import request_preview
from studio.ui.snapshot import StoreSnapshot


def build(page: Page) -> None:
    component = gr.HTML(apply_default_css=False, elem_id="preview")
    page.show(lambda snapshot: {component: preview(snapshot)}, [component])


def refresh_preview(page: Page, before: SessionSettings, session: Session) -> None:
    """Request new pictures if the prompts, the model or the sampling have changed.

    The job also finds out how much of each prompt the model reads.
    """
    after = session.settings
    if all(
        getattr(before, name) == getattr(after, name)
        for name in ("sampling", "base", "prompts", "shown_prompts")
    ):
        return
    cancel_queued(page.store, session.id, "preview")
    request_preview(page.store, session)


def preview(snapshot: StoreSnapshot) -> str:
    """The shown prompts with their pictures."""
    prompts = snapshot.settings.shown_prompts
    if not prompts:
        return (
            f"<div class='empty small'><h2>{_('Nothing to draw yet')}</h2>"
            f"<p>{_('Write a prompt.')}</p></div>"
        )
    pictures = current_previews(snapshot)
    job = snapshot.newest_job("preview")
    title = _("Drawn by the base model")
    if snapshot.current_adapter:
        title = _("Drawn with round {number}", number=snapshot.current_adapter.number)
    state = ""
    if job is not None and is_open(job):
        state = f"<span class='working-line'>{escape(words_of(snapshot, job))}</span>"
    problem = ""
    if job is not None and job.state == "failed":
        problem = f"<p class='problem' role='alert'>{escape(told(job.message))}</p>"
    current = snapshot.session.current_adapter_id
    cells = "".join(_cell(prompt, pictures.get((current, prompt))) for prompt in prompts)
    return (
        f"<h2 class='section'>{title} {state}</h2>{problem}"
        f"<div class='preview-grid {'drawing' if is_open(job) else ''}'>{cells}</div>"
    )


def _cell(prompt: str, image: Image | None) -> str:
    name = escape(prompt, quote=True)
    picture = "<span class='picture none'></span>"
    if image is not None:
        picture = f"<img class='picture' src='{image_url(image.id)}' alt='{name}'>"
    return (
        f"<figure class='{'working' if image is None else ''}'>{picture}"
        f"<figcaption title='{name}'>{name}</figcaption></figure>"
    )
