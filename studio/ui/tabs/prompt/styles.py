"""Styles: words that the artist keeps under a name and adds to all prompts."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from pathlib import Path

import gradio as gr

from studio.messages import _
from studio.prompting import text_files
from studio.prompting.styles import Style, parse, styled, written
from studio.settings import SessionSettings, SettingsError
from studio.store import write_atomically
from studio.store.rows import Session
from studio.ui.page import Page, Values
from studio.ui.tabs.prompt.preview import refresh_preview
from studio.ui.tabs.prompt.sampling import with_sampling


def build(page: Page) -> None:
    """A style to use or delete, and the form for a new one."""
    path = page.store.styles_path
    chosen = gr.Dropdown([], label=_("Style"), info=_("Words that you keep."), elem_id="style")
    with gr.Row():
        use = gr.Button(_("Add to all prompts"), elem_id="use-style", size="sm", min_width=120)
        delete = gr.Button(_("Delete"), elem_id="delete-style", size="sm", min_width=120)
    new_name = gr.Textbox(label=_("New style"), info=_("Its name."), elem_id="style-name")
    new_words = gr.Textbox(
        label=_("Words"),
        info=_("They come after the prompt, or around it: {prompt} is its place."),
        placeholder="flat style, on a blue background",
        elem_id="style-words",
    )
    keep = gr.Button(_("Keep this style"), elem_id="keep-style", size="sm")
    note = gr.HTML(apply_default_css=False, elem_classes="under-field")

    def on_use(session: Session, name: str | None) -> str:
        style = find_style(path, name)
        saved = page.store.change_settings(session.id, lambda now: with_style(now, style))
        refresh_preview(page, session.settings, saved)
        return _("The prompts have the words of “{name}”.", name=name)

    def on_keep(session: Session, name: str, words: str) -> tuple[Values, str]:
        negative = session.settings.sampling.negative_prompt
        style = Style(" ".join(name.split()), " ".join(words.split()), negative)
        if not style.name or not (style.prompt or negative):
            raise SettingsError(_("A style needs a name, and words to keep."))
        styles = read_styles(path)
        write_styles(path, styles | {style.name: style})
        outcome = _("“{name}” is kept.", name=style.name)
        if style.name in styles:
            outcome = _("“{name}” is now what you wrote.", name=style.name)
        choices = gr.update(choices=sorted(styles.keys() | {style.name}), value=style.name)
        return {chosen: choices, new_name: "", new_words: ""}, outcome

    def on_delete(session: Session, name: str | None) -> tuple[Values, str]:
        style = find_style(path, name)
        others = {n: other for n, other in read_styles(path).items() if n != style.name}
        write_styles(path, others)
        choices = gr.update(choices=sorted(others), value=None)
        return {chosen: choices}, _("“{name}” is deleted.", name=style.name)

    page.on(use.click, on_use, inputs=[chosen], outputs=[], refill=True)
    page.on(
        keep.click, on_keep, inputs=[new_name, new_words], outputs=[chosen, new_name, new_words]
    )
    page.on(delete.click, on_delete, inputs=[chosen], outputs=[chosen])

    def form(_snapshot: object) -> Values:
        styles, _problem = page.attempt(read_styles, path)  # shown when a style is used
        return {chosen: gr.update(choices=sorted(styles or {})), note: about_styles(path)}

    page.fill(form, [chosen, note])


def about_styles(path: Path) -> str:
    """Where the artist's styles are."""
    text = _(
        "The negative prompt above is kept with it. Your styles are in <code>{path}</code>, in the "
        "form of A1111’s: put your own there.",
        path=escape(str(path)),
    )
    return f"<p class='soft'>{text}</p>"


def read_styles(path: Path) -> dict[str, Style]:
    """The styles of the artist's file, by name; none if there is no file."""
    try:
        return parse(text_files.read(path).text) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise SettingsError(_("{path} cannot be read: {error}.", path=path, error=error)) from error


def write_styles(path: Path, styles: dict[str, Style]) -> None:
    write_atomically(path, lambda draft: draft.write_text(written(styles.values()), "utf-8"))


def find_style(path: Path, name: str | None) -> Style:
    """The style with this name. Raises SettingsError if there is none."""
    style = read_styles(path).get(name or "")
    if style is None:
        raise SettingsError(_("Choose a style first, or keep one under a name."))
    return style


def with_style(settings: SessionSettings, style: Style) -> SessionSettings:
    """Add a style's words to every prompt that does not have them yet."""
    if not settings.prompts and style.prompt:
        raise SettingsError(_("There is no prompt to add the words to: write one first."))
    prompts = tuple(dict.fromkeys(styled(prompt, style.prompt) for prompt in settings.prompts))
    negative = settings.sampling.negative_prompt
    words = style.negative_prompt
    if words and words not in negative:
        negative = f"{negative}, {words}" if negative else words
    return with_sampling(replace(settings, prompts=prompts), negative_prompt=negative)
