/* The LoRA to start from: this one, or none. */
import { onPress } from "../shared/dom.js";

export function begin({ element, trigger }) {
  onPress(element, "[data-start]", ({ start }) => trigger("use", { without: start === "without" }));
}
