/* The strip of rounds, any of which can be used. */
import { onPress } from "../shared/dom.js";

export function begin({ element, trigger }) {
  onPress(element, "[data-use]", ({ use }) => trigger("use", { adapter_id: use }));
}
