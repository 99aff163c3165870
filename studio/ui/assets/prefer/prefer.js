/* Prefer: which of these pictures is better?
 *
 * A press goes one way: keys.js says what it means, choice.js makes an answer of it, queue.js takes
 * the next question at once and sends the answer until the store has it. screen.js paints what then
 * holds. grid.js puts pictures in order, brush.js marks what decided, view.js zooms and flips,
 * strip.js shows the picks.
 */
import { partsOf } from "../shared/dom.js";
import { Brush } from "./brush.js";
import { Choice } from "./choice.js";
import { Grid } from "./grid.js";
import { Keys, listen } from "./keys.js";
import { Note } from "./note.js";
import { Pictures } from "./pictures.js";
import { isGrid, sidesOf } from "./questions.js";
import { Queue } from "./queue.js";
import { Screen } from "./screen.js";
import { Strip } from "./strip.js";
import { View } from "./view.js";

let life = null; // the page may build this component again: what listens to the document ends then

export function begin({ element, props, server, watch }) {
  life?.abort();
  life = new AbortController();
  const { signal } = life;
  const part = partsOf(element);
  const page = {
    part,
    act: (name) => element.querySelector('[data-act="' + name + '"]'),
    say: (words) => { part("said").textContent = words; },
    isSeen: () => element.offsetParent !== null,
    refresh: () => screen.refresh(),
    changed: () => screen.refresh(),
    layAgain: () => screen.lay(),
  };
  const keys = new Keys(element, () => grid.nameChoices());
  const grid = new Grid(part("pair"), (side) => keys.signs(side), page);
  const view = new View(part("pair"), grid, page, () => brush.isOn, signal);
  const pictures = new Pictures(page.refresh);
  const queue = new Queue(element, server, pictures, page, signal);
  const strip = (queue.strip = new Strip(element, server, queue));
  const brush = new Brush(part("pair"), grid, view, page, signal);
  const choice = new Choice(queue, grid, brush, page);
  const screen = new Screen(element, { queue, pictures, choice, grid, brush, view, strip });
  const note = new Note(part("note-card"), part("note-text"), (id, text) => queue.setNote(id, text));

  const acts = actsOf({ queue, choice, brush, grid, view, strip, screen, keys, note, page });
  element.addEventListener("click", (event) => press(event, acts), { signal });
  listen(keys, acts, signal);
  watch("value", () => queue.accept(props.value));
  keys.show();
  page.refresh();
  queue.accept(props.value);
}

/* What buttons and keys do, by the names they have in the template and on the card of keys. */
function actsOf({ queue, choice, brush, grid, view, strip, screen, keys, note, page }) {
  const shownAgain = (change) => () => { change(); screen.refresh(); };
  return {
    choose: (what, much_better) => choice.choose(what, much_better),
    star: (side) => choice.star(side),
    star_left: () => choice.star("left"),
    star_right: () => choice.star("right"),
    composition: () => choice.why("composition"),
    detail: () => choice.why("detail"),
    colour: () => choice.why("colour"),
    subject: () => choice.why("subject"),
    order: () => choice.order(),
    brush: () => choice.brush(),
    undo: () => brush.undo() || queue.undo(),
    leave: () => queue.leave(),
    size: (pictures) => queue.setSize(pictures),
    flip: () => view.flip(),
    apart: () => view.apart(),
    zoom_in: () => view.zoomIn(),
    zoom_out: () => view.zoomOut(),
    fit: () => view.fit(),
    prompt: () => screen.togglePrompt(),
    strip: shownAgain(() => strip.toggle()), // the pictures have another size then
    favourites: shownAgain(() => strip.toggleFavourites()),
    older: () => strip.fetch(true),
    keys: () => keys.open(),
    usual: () => keys.takeUsual(),
    note: () => note.open(queue.shown),
    "note-leave": () => note.close(),
    isSeen: page.isSeen,
    numbers: () => (queue.shown && isGrid(queue.shown) ? sidesOf(queue.shown) : []),
    pan(right, down) {
      if (view.isZoomed) view.pan(right, down);
      return view.isZoomed;
    },
    /* One step back to the plain view; false when there is none. */
    stepBack() {
      if (queue.shown && brush.isOn) brush.toggle();
      else if (queue.shown?.reopened) queue.leave();
      else if (view.isAlone) view.apart();
      else if (view.isZoomed) view.fit();
      else if (queue.shown && grid.isOrdering) grid.leaveOrder();
      else return false;
      return true;
    },
  };
}

function press(event, acts) {
  const button = event.target.closest("button");
  if (!button) return;
  // The hand goes back to the keys: Space must not press again what the pointer pressed.
  if (event.detail && !button.closest("dialog")) button.blur();
  const { size, choice, act } = button.dataset;
  if (size) acts.size(Number(size));
  else if (button.matches(".star")) acts.star(button.closest("[data-side]").dataset.side);
  else if (choice) acts.choose(choice, "much" in button.dataset || event.shiftKey);
  else acts[act]?.();
}
