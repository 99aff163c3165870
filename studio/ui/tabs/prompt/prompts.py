"""The prompts of a session, the negative prompt, and prompts to begin with."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path

import gradio as gr

from studio.messages import _, together, told
from studio.prompting import foreign
from studio.prompting.alternatives import expand
from studio.settings import SessionSettings, SettingsError
from studio.store.rows import Session
from studio.ui.fields import Field, save_fields
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot
from studio.ui.starter_pack import starter_packs
from studio.ui.static import script
from studio.ui.tabs.prompt.preview import refresh_preview
from studio.ui.tabs.prompt.sampling import with_sampling


def build(page: Page) -> None:
    """Two text fields and the starter prompts."""
    prompts = gr.Textbox(
        label=_("Prompts"),
        info=_(
            "One on each line. Pairs are drawn of each in turn; six to twenty work well. "
            "{cat|dog} leaves a choice open."
        ),
        placeholder="a red apple\na {sailboat|rocket}, flat style",
        lines=9,
        max_lines=18,
        elem_id="prompts",
        elem_classes="autosave",
    )
    notes = gr.HTML(apply_default_css=False, elem_id="too-long", elem_classes="under-field")
    pack = gr.HTML(
        apply_default_css=False,
        elem_id="starter-pack",
        js_on_load=script("prompt/starter_packs.js", "add_prompt"),
    )
    negative = gr.Textbox(
        label=_("Negative prompt"),
        info=_("What should not be in the picture. Often best left empty."),
        lines=1,
        max_lines=4,
        elem_id="negative-prompt",
        elem_classes="autosave",
    )
    save_fields(
        page,
        [
            Field(
                prompts,
                lambda s: "\n".join(s.prompts),
                lambda s, text: with_prompts(s, text, page.store.wildcards_path),
            ),
            Field(
                negative,
                lambda s: s.sampling.negative_prompt,
                lambda s, text: with_sampling(s, negative_prompt=text.strip()),
            ),
        ],
        after=partial(refresh_preview, page),
    )
    page.show(
        lambda snapshot: {pack: pack_chips(snapshot.settings), notes: prompt_notes(snapshot)},
        [pack, notes],
    )

    def add(session: Session, event: gr.EventData) -> Values:
        """Add one prompt of a theme, or all of them."""
        theme, wanted = event._data.get("theme"), event._data.get("prompt")
        offered = [p for p in starter_packs().get(theme, ()) if wanted in (None, p)]

        def with_offered(now: SessionSettings) -> SessionSettings:
            return replace(now, prompts=tuple(dict.fromkeys((*now.prompts, *offered))))

        saved = page.store.change_settings(session.id, with_offered)
        return {prompts: "\n".join(saved.settings.prompts)}

    page.on(pack.add_prompt, add, outputs=[prompts], with_event=True)


def with_prompts(settings: SessionSettings, text: str, wildcards: Path) -> SessionSettings:
    """One prompt a line, without repeats. `wildcards`: the folder with lists of alternatives.

    Raises SettingsError for no prompt at all, and for one that cannot be used.
    """
    lines = tuple(dict.fromkeys(" ".join(line.split()) for line in text.splitlines()))
    prompts = tuple(line for line in lines if line)
    if not prompts:
        until = _("Until then the ones from before are used.") if settings.prompts else ""
        raise SettingsError(
            together(
                _("There is no prompt: write what the pictures should show, one on each line."),
                until,
            )
        )
    settings = replace(settings, prompts=prompts)  # refuses too many prompts and too long ones
    for prompt in prompts:
        expand(prompt, 0, wildcards)  # refuses alternatives that cannot be read
    return settings


def prompt_notes(snapshot: StoreSnapshot) -> str:
    """Signs of other programs in the prompts, and prompts whose ends the model cannot read.

    The newest preview job has found those ends.
    """
    job = snapshot.newest_job("preview")
    ends = job.result.get("unread", {}) if job is not None else {}
    prompts = (*snapshot.settings.prompts, snapshot.settings.sampling.negative_prompt)
    signs = "".join(
        f"<p class='soft'>{escape(told(sign))}</p>" for sign in foreign.remarks(prompts)
    )
    lines = "".join(
        f"<li>{_left_out(escape(prompt[:40]), escape(ends[prompt]))}</li>"
        for prompt in prompts
        if prompt in ends
    )
    if not lines:
        return signs
    longer = f"<p class='soft'>{_('Longer than this model reads:')}</p>"
    return f"{signs}{longer}<ul class='soft'>{lines}</ul>"


def _left_out(prompt: str, end: str) -> str:
    return _("“{prompt}…”: “{end}” is left out", prompt=prompt, end=end)


def pack_chips(settings: SessionSettings) -> str:
    """Prompts that suit the starter model, by theme: add one by a click, or a whole theme."""
    if settings.base_model != "starter":
        return ""
    themes = ""
    for number, (theme, prompts) in enumerate(starter_packs().items()):
        offered = [prompt for prompt in prompts if prompt not in settings.prompts]
        chips = "".join(_chip(theme, prompt, escape(prompt)) for prompt in offered)
        if len(offered) > 1:
            chips += _chip(theme, None, _("all {number}", number=len(offered)))
        if chips:
            themes += (
                f"<details class='theme' id='theme-{number}'><summary>{_(theme)}</summary>"
                f"<div class='chips'>{chips}</div></details>"
            )
    if not themes:
        return ""
    return f"<p class='soft'>{_('What the starter model draws well:')}</p>{themes}"


def _chip(theme: str, prompt: str | None, label: str) -> str:
    data = f"data-theme='{theme}'"
    if prompt is not None:
        data += f" data-prompt='{escape(prompt, quote=True)}'"
    return f"<button type='button' class='chip' {data}>{label}</button>"
