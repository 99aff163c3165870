/* The exports that were made, to send to another tool or to see in their folder. */
import { onPress } from "../shared/dom.js";

export function begin({ element, trigger }) {
  onPress(element, "[data-export]", (data) =>
    trigger(data.does === "send" ? "send" : "folder", { export_id: data.export }));
}
