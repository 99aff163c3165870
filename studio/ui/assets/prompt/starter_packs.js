/* The chips of the starter packs; one theme at a time is open. */
import { onPress } from "../shared/dom.js";

export function begin({ element, trigger }) {
  let open = null; // the theme that stays open when the chips are drawn anew
  element.addEventListener("toggle", ({ target }) => {
    if (target.open) open = target.id;
    else if (open === target.id) open = null;
  }, { capture: true });
  new MutationObserver(() => {
    const details = open && element.querySelector("#" + open);
    if (details && !details.open) details.open = true;
  }).observe(element, { childList: true, subtree: true });
  onPress(element, "[data-theme]", ({ theme, prompt = null }) => trigger("add_prompt", { theme, prompt }));
}
