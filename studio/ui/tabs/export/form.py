"""The form of Export: which adapter, and what is written into its files."""

from __future__ import annotations

from html import escape

import gradio as gr

from studio.messages import N_, _
from studio.settings import SettingsError, checked_strength
from studio.statistics import tallies
from studio.store.rows import Session
from studio.ui.adapters import adapter_choices, best_strength
from studio.ui.jobs import is_open
from studio.ui.page import Page, Values
from studio.ui.snapshot import StoreSnapshot

FORMATS = {
    "kohya": N_("For A1111, Forge, ComfyUI, InvokeAI (.safetensors)"),
    "diffusers": N_("For diffusers and PEFT (.safetensors)"),
}
PRECISIONS = {
    "float32": N_("Exact (fp32)"),
    "float16": N_("Half the size (fp16)"),
    "bfloat16": N_("Half the size (bf16)"),
}
LICENCES = (
    "",
    "CC0-1.0",
    "CC-BY-4.0",
    "CC-BY-SA-4.0",
    "CC-BY-NC-4.0",
    "CreativeML Open RAIL-M",
)


def build(page: Page) -> None:
    """A field for everything that is written into the files."""
    adapter = gr.Dropdown(
        label=_("Which round"), choices=[], elem_id="export-adapter", interactive=True
    )
    name = gr.Textbox(
        label=_("Name"),
        info=_("The file is called so, and the tools show it."),
        max_lines=1,
        max_length=120,
        elem_id="export-name",
    )
    notes = gr.Textbox(
        label=_("Description"),
        info=_("What the taste is, in your words."),
        lines=3,
        max_length=4000,
        elem_id="export-notes",
    )
    with gr.Row(elem_classes="numbers"):
        trigger = gr.Textbox(
            label=_("Trigger notes"),
            info=_("Words that go well in the prompt, if any."),
            max_lines=2,
            max_length=500,
            min_width=160,
            elem_id="export-trigger",
        )
        strength = gr.Number(
            label=_("Recommended strength"),
            info=_("1 is what was learned, below 0 its opposite."),
            value=1.0,
            step=0.05,
            min_width=120,
            elem_id="export-strength",
        )
    with gr.Row(elem_classes="numbers"):
        author = gr.Textbox(label=_("By"), max_lines=1, max_length=200, min_width=140)
        licence = gr.Dropdown(
            LICENCES, label=_("Licence"), allow_custom_value=True, value="", min_width=160
        )
    formats = gr.CheckboxGroup(
        [(label, value) for value, label in FORMATS.items()],
        value=list(FORMATS),
        label=_("Files"),
        elem_id="export-formats",
    )
    precision = gr.Dropdown(
        [(label, value) for value, label in PRECISIONS.items()],
        value="float32",
        label=_("Numbers"),
        info=_("Half the size rounds a little; every tool reads all three."),
        elem_id="export-precision",
    )
    workflows = gr.Checkbox(
        label=_("Also write a ComfyUI workflow and settings for A1111"),
        info=_(
            "For the export’s picture. Drop the workflow on ComfyUI; paste the settings into "
            "A1111’s prompt."
        ),
        value=False,
        elem_id="export-workflows",
    )
    exam = gr.HTML(apply_default_css=False, elem_id="export-exam", elem_classes="under-field")
    export = gr.Button(_("Export the LoRA"), variant="primary", elem_id="export-make")

    def view(snapshot: StoreSnapshot) -> Values:
        is_exporting = is_open(snapshot.newest_job("export"))
        current = snapshot.session.current_adapter_id
        return {
            adapter: gr.update(choices=adapter_choices(snapshot), value=current),
            # Sent only when it changes, so it does not overwrite a number that the artist typed.
            strength: best_strength(snapshot, current) or 1.0,
            exam: exam_line(snapshot, current),
            export: gr.update(
                interactive=bool(snapshot.adapters) and not is_exporting,
                value="Exporting" if is_exporting else _("Export the LoRA"),
            ),
        }

    page.show(view, [adapter, strength, exam, export])

    def choose(session: Session, adapter_id: str | None) -> Values:
        snapshot = StoreSnapshot(page.store)
        return {
            strength: best_strength(snapshot, adapter_id) or 1.0,
            exam: exam_line(snapshot, adapter_id),
        }

    page.on(adapter.input, choose, inputs=[adapter], outputs=[strength, exam])
    page.fill(lambda snapshot: {name: snapshot.session.name}, [name])

    def request_export(session: Session, *values: object) -> None:
        page.store.add_job(session.id, "export", export_payload(*values))

    page.on(
        export.click,
        request_export,
        inputs=[
            *(adapter, name, notes, trigger, strength, author, licence, formats, precision),
            workflows,
        ],
    )


def exam_line(snapshot: StoreSnapshot, adapter_id: str | None) -> str:
    """The results of an adapter's exams, which are written into its files."""
    results = {}
    if adapter_id:
        results = tallies(snapshot.store.exams(snapshot.session.id, adapter_id))
    if not results:
        none = _(
            "No blind exam was taken with this round. What one finds is written into the file."
        )
        return (
            f"<p class='soft'>{none} <button type='button' class='button small' "
            f"data-open-tab='exam'>{_('Take one')}</button></p>"
        )
    listed = "; ".join(
        _("at strength {strength:g} in {tally}", strength=at, tally=tally)
        for at, tally in results.items()
    )
    line = _("Written into the file: you chose it blind {listed}.", listed=listed)
    return f"<p class='soft'>{escape(line)}</p>"


def export_payload(
    adapter_id: str | None,
    name: str,
    notes: str,
    trigger: str,
    strength: float | None,
    author: str,
    licence: str | None,
    formats: list[str],
    precision: str = "float32",
    workflows: bool = False,
) -> dict[str, object]:
    """The payload of a job. Raises SettingsError with a sentence if something is missing."""
    if not adapter_id:
        raise SettingsError(_("There is nothing to export yet: let a round learn first."))
    if not name.strip():
        raise SettingsError(_("Give the LoRA a name."))
    strength = checked_strength(strength, zero=False)
    if not formats:
        raise SettingsError(_("Choose at least one kind of file."))
    return {
        "adapter_id": adapter_id,
        "name": name.strip(),
        "notes": notes.strip(),
        "trigger": trigger.strip(),
        "strength": strength,
        "author": author.strip(),
        "licence": (licence or "").strip(),
        "formats": list(formats),
        "precision": precision,
        "workflows": workflows,
    }
