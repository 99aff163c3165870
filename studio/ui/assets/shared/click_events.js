/* Buttons of a component: a click triggers the event that its data-event names, with its other data. */
import { onPress } from "./dom.js";

export function begin({ element, trigger }) {
  onPress(element, "[data-event]", ({ event, ...data }) => trigger(event, data));
}
