/* A question in the middle of the page.
 *
 * Resolves to the text, or to true where no text is asked for, or to null when the artist cancels.
 */
import { node } from "./dom.js";
import { _ } from "./messages.js";

export function ask({ title, text = "", label = "", value = null, ok = _("OK"), danger = false }) {
  const input = value === null ? null : node("input", { value, required: "", maxlength: 120 });
  const cancel = node("button", { type: "button", class: "button" }, _("Cancel"));
  const accept = node("button", { type: "submit", class: "button " + (danger ? "danger" : "primary") }, ok);
  const form = node("form", { method: "dialog" }, node("h2", { id: "ask-title" }, title));
  if (text) form.append(node("p", {}, text));
  if (input) form.append(node("label", {}, label, input));
  form.append(node("div", { class: "ask-buttons" }, cancel, accept));
  const dialog = node("dialog", { class: "ask", "aria-labelledby": "ask-title" }, form);
  document.body.append(dialog);
  return new Promise((resolve) => {
    let answer = null;
    cancel.addEventListener("click", () => dialog.close());
    form.addEventListener("submit", () => { answer = input ? input.value.trim() || null : true; });
    dialog.addEventListener("close", () => { dialog.remove(); resolve(answer); });
    dialog.showModal();
    (input || cancel).focus();
    input?.select();
  });
}
