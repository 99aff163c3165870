/* The card of the model: it opens the chooser, closes it when a model is taken, and takes dropped files.

   A browser tells the name and the size of a dropped file, and not where it lies: Python finds that out. */
import { onPress, partsOf } from "../shared/dom.js";
import { _ } from "../shared/messages.js";

const MODEL = /\.(safetensors|ckpt|pt|pth|bin|gguf)$/i;

export function begin({ element, props, trigger, watch }) {
  const part = partsOf(element);
  const change = part("change");
  const panel = element.closest('[role="tabpanel"]') || element;
  const card = element.closest("#model-card") || element;
  const chooser = () => document.getElementById("model-chooser");
  const isOpen = () => change.getAttribute("aria-expanded") === "true";

  function show(open) {
    chooser().toggleAttribute("data-open", open);
    change.setAttribute("aria-expanded", String(open));
    change.textContent = open ? _("Close") : _("Change");
  }

  /* The focus goes into the chooser, and comes back unless it is somewhere else by then. */
  function open(selector = '.model[aria-pressed="true"], .model') {
    show(true);
    chooser().querySelector(selector)?.focus();
  }
  function close() {
    const at = document.activeElement;
    const returns = !at || at === document.body || chooser().contains(at);
    show(false);
    if (returns) change.focus();
  }

  let session, model;
  function render() {
    const now = props.value;
    if (!now) return;
    part("about").innerHTML = now.html;
    if (isOpen() && (session !== now.session || model !== now.model)) close();
    ({ session, model } = now);
  }
  watch("value", render);
  render();

  change.addEventListener("click", () => (isOpen() ? close() : open()));
  onPress(element, "[data-event]", ({ event, ...data }) => {
    if (event === "download_model") open("#model-path input, #model-path textarea");
    trigger(event, data);
  });
  panel.addEventListener("click", (event) => {
    if (event.target.closest('#model-chooser .model[aria-pressed="true"]')) close();
  });
  panel.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && isOpen() && chooser().contains(event.target)) close();
  });

  /* Before the tab takes the file for a picture. Text is a path, from a terminal or an editor. */
  document.addEventListener("drop", (event) => {
    if (!panel.contains(event.target)) return;
    const file = event.dataTransfer.files[0];
    const isFolder = Boolean(event.dataTransfer.items[0]?.webkitGetAsEntry?.()?.isDirectory);
    const path = card.contains(event.target) && !file ? event.dataTransfer.getData("text/plain") : "";
    if (!path && !(file && (isFolder || MODEL.test(file.name)))) return;
    event.preventDefault();
    event.stopPropagation();
    panel.classList.remove("dropping");
    open("#model-path input, #model-path textarea");
    if (path) trigger("look_at", { text: path }); // Gradio takes a "path" for an uploaded file
    else trigger("find_dropped", { file: file.name, bytes: isFolder ? -1 : file.size });
  }, true);
  card.addEventListener("dragover", (event) => event.preventDefault());
}
