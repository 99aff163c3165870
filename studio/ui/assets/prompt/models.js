/* The models to choose from, and the folders they come from. */
import { onPress } from "../shared/dom.js";

export function begin({ element, trigger }) {
  onPress(element, "[data-model]", ({ model, name }) => trigger("use", { act: model, name }));
}
