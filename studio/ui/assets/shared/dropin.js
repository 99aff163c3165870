/* A picture is dropped on the tab, or chosen, and its settings are sent to Python. */
import { _ } from "./messages.js";
import { notify } from "./notices.js";

export function begin({ element, trigger }) {
  const input = element.querySelector("input");
  const panel = element.closest('[role="tabpanel"]') || element;
  const holdsFile = (event) => [...(event.dataTransfer?.types || [])].includes("Files");

  async function take(file) {
    if (!file) return;
    if (file.size > Number(input.dataset.mostBytes)) return notify("bad", _("This file is far too large."));
    const sent = fetch("/parameters", { method: "POST", body: file });
    const reply = await sent.then((answer) => answer.json()).catch(() => null);
    if (!reply) notify("bad", _("The studio does not answer. Try again in a moment."));
    else if (!reply.ok) notify("bad", reply.sentence);
    else trigger("restore", { made: reply.made });
  }

  element.querySelector("button").addEventListener("click", () => input.click());
  input.addEventListener("change", () => { take(input.files[0]); input.value = ""; });
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
}
