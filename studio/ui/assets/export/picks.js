/* Picks that were taken out or in, with what can be done next. */
import { onPress } from "../shared/dom.js";

export function begin({ element, trigger }) {
  onPress(element, "[data-picks]", ({ picks }) => trigger("asked", { act: picks }));
}
