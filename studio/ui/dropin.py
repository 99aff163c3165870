"""A picture that is dropped on a tab gives back the settings it was made with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gradio as gr

from studio.pictures.files import MOST_BYTES
from studio.pictures.infotext import Parameters, ParametersError, read
from studio.settings import SettingsError
from studio.store.rows import Session
from studio.ui.page import Page

DROP_HTML = """<div class="drop-in">
  <button type="button" class="button small">Take settings from a picture</button>
  <span class="soft">or drop a PNG here</span>
  <input type="file" accept="image/png,.png" aria-label="A PNG whose settings are taken" hidden>
</div>"""

DROP_JS = """
const input = element.querySelector("input");
async function take(file) {
  if (!file) return;
  if (file.size > MOST_BYTES) return studio.notify("bad", "This file is far too large.");
  const sent = fetch("/parameters", { method: "POST", body: file });
  const reply = await sent.then((answer) => answer.json()).catch(() => null);
  if (!reply) studio.notify("bad", "The studio does not answer. Try again in a moment.");
  else if (!reply.ok) studio.notify("bad", reply.sentence);
  else trigger("restore", { text: reply.text });
}
element.querySelector("button").addEventListener("click", () => input.click());
input.addEventListener("change", () => { take(input.files[0]); input.value = ""; });
const panel = element.closest('[role="tabpanel"]') || element;
const holdsFile = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
for (const kind of ["dragenter", "dragover"])
  panel.addEventListener(kind, (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    panel.classList.add("dropping");
  }, true);
panel.addEventListener("dragleave", (event) => {
  if (!panel.contains(event.relatedTarget)) panel.classList.remove("dropping");
});
panel.addEventListener("drop", (event) => {
  if (!holdsFile(event)) return;
  event.preventDefault();
  panel.classList.remove("dropping");
  take(event.dataTransfer.files[0]);
}, true);
""".replace("MOST_BYTES", str(MOST_BYTES))


def accept_picture(
    page: Page,
    elem_id: str,
    restore: Callable[[Session, Parameters], Any],
    outputs: Iterable[Any] = (),
    refill: bool = False,
) -> None:
    """Make the whole tab accept a dropped PNG, whose settings go to `restore`.

    `restore` returns what a handler of `Page.on` returns.
    """
    target = gr.HTML(value=DROP_HTML, js_on_load=DROP_JS, apply_default_css=False, elem_id=elem_id)

    def handle(session: Session, event: gr.EventData) -> Any:
        try:
            parameters = read(str(event._data.get("text", "")))
        except ParametersError as error:
            raise SettingsError(str(error)) from error
        return restore(session, parameters)

    page.on(target.restore, handle, outputs=outputs, with_event=True, refill=refill)
