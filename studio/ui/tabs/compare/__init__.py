"""Compare: base beside tuned, the same prompts and the same seeds."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.messages import _
from studio.paths import typed
from studio.pictures.infotext import Parameters
from studio.settings import LEAST_STRENGTH, MOST_STRENGTH, StartLora
from studio.store.rows import Session
from studio.ui import words
from studio.ui.adapters import adapter_choices
from studio.ui.dropin import accept_picture
from studio.ui.jobs import cancel_open, is_open
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot
from studio.ui.static import script, template
from studio.ui.tabs.compare import best, comparison, grid, mix, story


def build(page: Page) -> None:
    """The form on the left, the pictures on the right; below them the grid and the story."""
    with gr.Row(elem_classes="compare-columns", equal_height=False):
        with gr.Column(scale=1, min_width=280, elem_classes="compare-form"):
            prompts = gr.Textbox(
                label=_("Prompts"),
                info=_("One on each line. Ones it has not practised are the fairest test."),
                lines=5,
                max_lines=10,
                elem_id="compare-prompts",
            )
            with gr.Row(elem_classes="numbers"):
                seed = gr.Number(label=_("First seed"), value=1000, precision=0, min_width=110)
                seeds = gr.Number(
                    label=_("Seeds"),
                    value=2,
                    precision=0,
                    min_width=90,
                    elem_id="compare-seeds",
                )
            adapter = gr.Dropdown(
                label=_("Tuned by"), choices=[], elem_id="compare-adapter", interactive=True
            )
            strength = gr.Slider(
                LEAST_STRENGTH,
                MOST_STRENGTH,
                value=1.0,
                step=0.05,
                label=_("Strength"),
                info=_(
                    "1 is what was learned, 0 is the base model. {below_zero}",
                    below_zero=words.below_zero(),
                ),
                elem_id="compare-strength",
            )
            ends = gr.Button(
                _(
                    "See it from {least:g} to {most:g}",
                    least=LEAST_STRENGTH,
                    most=MOST_STRENGTH,
                ),
                size="sm",
                elem_id="compare-ends",
            )
            form = mix.build(page)
            with gr.Accordion(_("Beside them, another LoRA"), open=False, elem_id="compare-other"):
                other = gr.Textbox(
                    label=_("A LoRA on this computer"),
                    info=_("Somebody’s .safetensors file, to see what it does to the base model."),
                    placeholder="/home/me/loras/my-style.safetensors",
                    lines=1,
                    elem_id="compare-other-path",
                )
                other_strength = gr.Slider(
                    LEAST_STRENGTH,
                    MOST_STRENGTH,
                    value=1.0,
                    step=0.05,
                    label=_("Its strength"),
                    info=_("1 is as it was made."),
                )
            drop = gr.Column(elem_classes="drop-column")
            with gr.Row(elem_classes="buttons"):
                draw = gr.Button(_("Compare"), variant="primary", elem_id="compare-draw")
                cancel = gr.Button(_("Cancel"), visible=False, elem_id="compare-cancel")
        with gr.Column(scale=4, min_width=320):
            viewer = gr.HTML(
                value=None,
                html_template=template("compare/compare.html"),
                js_on_load=script("compare/compare.js"),
                apply_default_css=False,
                elem_id="compare-viewer",
            )

    with gr.Accordion(_("Best of many for your taste"), open=False, elem_id="best-fold"):
        best.build(page, seed, adapter, strength)
    fold = gr.Accordion(_("Grid over strengths and rounds"), open=False, elem_id="grid-fold")
    with fold:
        grid.build(page, prompts, seed, seeds)
    with gr.Accordion(_("The story so far"), open=False, elem_id="story-fold"):
        story.build(page)

    def view(snapshot: StoreSnapshot) -> Values:
        jobs = snapshot.store.jobs(snapshot.session.id, kind="compare")
        is_drawing = bool(jobs) and is_open(jobs[0])
        current = snapshot.session.current_adapter_id if snapshot.adapters else None
        return {
            viewer: comparison.viewer_value(snapshot, jobs),
            adapter: gr.update(choices=adapter_choices(snapshot), value=current),
            draw: gr.update(visible=not is_drawing, interactive=bool(snapshot.adapters)),
            cancel: gr.update(visible=is_drawing),
            ends: gr.update(interactive=bool(snapshot.adapters)),
        }

    page.show(view, [viewer, adapter, draw, cancel, ends])
    page.fill(lambda snapshot: {prompts: "\n".join(snapshot.settings.shown_prompts)}, [prompts])

    def compare(
        session: Session,
        text: str,
        first: float,
        count: float,
        adapter_id: str | None,
        strength: float,
        other_path: str | None,
        other_strength: float,
        *parts: str | float | None,
    ) -> None:
        wanted = mix.mix_payload(parts)
        payload = comparison.comparison_payload(text, first, count, adapter_id, strength, wanted)
        if other_path and other_path.strip():
            lora = StartLora(typed(other_path), float(other_strength))
            payload["other"] = lora.to_dict()
        page.store.add_job(session.id, "compare", payload)

    def compare_again(session: Session, *values: Any) -> None:
        """Draw the mix as the sliders are now, and no longer as they were."""
        if mix.mix_payload(values[-len(form.rows) :]):
            cancel_open(page.store, session.id, "compare")
            compare(session, *values)

    def show_ends(
        session: Session, text: str, first: float | None, adapter_id: str | None
    ) -> tuple[Values, str]:
        prompt = next((line for line in text.splitlines() if line.strip()), "")
        payload = grid.grid_payload(prompt, first, 1, [adapter_id], grid.whole_range())
        page.store.add_job(session.id, "grid", payload)
        return {fold: gr.update(open=True)}, _("It is drawn in the grid, at the end of this page.")

    def restore(session: Session, parameters: Parameters) -> tuple[Values, str]:
        values, sentence = comparison.restored(StoreSnapshot(page.store), parameters)
        shown = mix.revealed(form.columns, values[len(fields) :: 2])
        return dict(zip((*fields, *form.rows), values, strict=True)) | shown, sentence

    fields = (prompts, seed, seeds, adapter, strength)
    with drop:
        outputs = (*fields, *form.rows, *form.columns)
        accept_picture(page, "compare-drop", restore, outputs=outputs)

    def save_mix(
        session: Session,
        adapter_id: str | None,
        strength: float,
        name: str,
        rank: float | None,
        *parts: Any,
    ) -> str:
        name = name.strip() or mix.mix_name(session)
        payload = mix.export_payload(adapter_id, strength, name, rank, mix.mix_payload(parts))
        page.store.add_job(session.id, "export", payload)
        return _("“{name}” is being written and checked: it will be on the Export tab.", name=name)

    inputs = [*fields, other, other_strength, *form.rows]
    page.on(draw.click, compare, inputs=inputs)
    for slider in (strength, *form.rows[1::2]):
        page.on(slider.release, compare_again, inputs=inputs)
    saved = [adapter, strength, form.name, form.rank, *form.rows]
    page.on(form.save.click, save_mix, inputs=saved)
    page.on(cancel.click, lambda session: cancel_open(page.store, session.id, "compare"))
    page.on(ends.click, show_ends, inputs=[prompts, seed, adapter], outputs=[fold])
