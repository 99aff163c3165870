/* The shapes that fit the model. */
import { onPress } from "../shared/dom.js";

export function begin({ element, trigger }) {
  onPress(element, "[data-shape]", ({ shape }) => trigger("choose", { shape }));
}
