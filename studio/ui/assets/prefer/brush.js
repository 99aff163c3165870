/* The brush: a few strokes on either picture mark what decided.
 *
 * The marks of a picture are a map of ACROSS x ACROSS places over all of it, whatever its size. They
 * are sent as the bits of the places, row by row, in hexadecimal. They lie over the picture as a
 * canvas, which is zoomed and moved with it.
 */
import { _ } from "../shared/messages.js";
import { isBetter, pictureAt, sidesOf } from "./questions.js";

const ACROSS = 32;
const PLACE_PX = 16; // of the canvas
const RADIUS = 0.055; // of the brush, in shorter sides of the frame

export class Brush {
  isOn = false;
  #box;
  #grid;
  #view;
  #page;
  #asked = null;
  #before = null; // the answer that was given before
  #marks = {}; // image id -> map; an image without marks has none
  #past = []; // the marks before each stroke
  #stroke = null; // { id, image_id, x, y } of the pointer that draws, in places

  /* page: { say(words), changed() }, which is called when there are other marks, or the brush is
   * taken up or put down. */
  constructor(box, grid, view, page, signal) {
    this.#box = box;
    this.#grid = grid;
    this.#view = view;
    this.#page = page;
    box.addEventListener("pointerdown", (event) => this.#begin(event), { signal });
    document.addEventListener("pointermove", (event) => this.#draw(event), { signal });
    for (const name of ["pointerup", "pointercancel"])
      document.addEventListener(name, (event) => this.#end(event), { signal });
    box.addEventListener("click", (event) => {
      if (this.isOn && event.detail && event.target.closest(".choice")) event.stopPropagation();
    }, { capture: true, signal });
  }

  /* Another question, which was answered like that before. */
  lay(asked, before) {
    this.#asked = asked;
    this.#before = before;
    this.#marks = decoded(before?.marks || {});
    this.#past = [];
    this.#stroke = null;
    this.isOn = false;
    for (const side of sidesOf(asked)) {
      const canvas = document.createElement("canvas");
      canvas.className = "marks";
      canvas.width = canvas.height = ACROSS * PLACE_PX;
      this.#grid.boxOf(side).querySelector(".frame").append(canvas);
    }
    this.#paint();
  }

  /* As an answer has them. */
  get marks() {
    const marked = (this.#asked?.pictures || []).filter((one) => this.#marks[one.image_id]);
    return Object.fromEntries(marked.map((one) => [one.image_id, encoded(this.#marks[one.image_id])]));
  }

  get hasMarks() {
    return Object.keys(this.#marks).length > 0;
  }

  /* A pick that is open again, with other marks than it has: they can be kept without a new choice. */
  get canKeep() {
    return Boolean(this.#asked?.reopened && isBetter(this.#before?.choice) && this.#past.length);
  }

  /* Takes the brush up or puts it down. */
  toggle() {
    if (!this.#asked) return;
    this.isOn = !this.isOn;
    this.#stroke = null;
    this.#box.classList.toggle("brushing", this.isOn);
    this.#page.say(this.isOn ? _("Mark what decided, on either picture. Then choose.")
      : this.hasMarks ? _("Marked. Now choose.") : "");
    this.#page.changed();
  }

  /* Takes the last stroke back, or the marks from before; false when there are none to take back. */
  undo() {
    if (this.#past.length) this.#marks = this.#past.pop();
    else if (this.isOn && this.hasMarks) this.#change({});
    else return false;
    this.#stroke = null;
    this.#paint();
    this.#page.say(this.hasMarks ? _("The last stroke is taken back.") : _("No marks."));
    this.#page.changed();
    return true;
  }

  /* --- strokes ------------------------------------------------------------------------------------- */
  #begin(event) {
    const choice = event.target.closest(".choice");
    if (!this.isOn || event.button || !choice) return;
    if (this.#stroke) return this.#drop(); // a second finger zooms
    if (this.#view.fingers > 1) return;
    const { side } = choice.closest(".side").dataset;
    this.#change(this.#marks);
    this.#stroke = { id: event.pointerId, side, ...this.#placeOf(side, event) };
    this.#mark(this.#stroke);
  }

  #draw(event) {
    if (this.#stroke?.id !== event.pointerId) return;
    const to = this.#placeOf(this.#stroke.side, event);
    const { x, y } = this.#stroke;
    const steps = Math.ceil(Math.max(Math.abs(to.x - x), Math.abs(to.y - y)) / 0.5) || 1;
    for (let step = 1; step <= steps; step += 1)
      this.#mark({ x: x + ((to.x - x) * step) / steps, y: y + ((to.y - y) * step) / steps });
    Object.assign(this.#stroke, to);
  }

  #end(event) {
    if (this.#stroke?.id !== event.pointerId) return;
    this.#stroke = null;
    this.#page.say(_("Marked."));
    this.#page.changed();
  }

  #drop() {
    this.#stroke = null;
    this.#marks = this.#past.pop();
    this.#paint();
  }

  #change(marks) {
    this.#past.push(this.#marks);
    this.#marks = { ...marks };
  }

  /* Where a pointer is on the picture of a side, in places. */
  #placeOf(side, { clientX, clientY }) {
    const shown = this.#shown(side);
    return { x: ((clientX - shown.x) / shown.width) * ACROSS, y: ((clientY - shown.y) / shown.height) * ACROSS };
  }

  /* A dab of the brush, as large on the screen at any zoom. */
  #mark({ x, y }) {
    const { side } = this.#stroke;
    const id = pictureAt(this.#asked, side).image_id;
    const shown = this.#shown(side);
    const frame = this.#grid.boxOf(side).getBoundingClientRect();
    const radius_px = RADIUS * Math.min(frame.width, frame.height);
    const across = (radius_px / shown.width) * ACROSS, down = (radius_px / shown.height) * ACROSS;
    const map = this.#marks[id]?.slice() || new Uint8Array(ACROSS * ACROSS);
    for (let row = Math.max(0, Math.floor(y - down)); row < Math.min(ACROSS, y + down); row += 1)
      for (let column = Math.max(0, Math.floor(x - across)); column < Math.min(ACROSS, x + across); column += 1) {
        const isUnder = Math.floor(x) === column && Math.floor(y) === row;
        const far = Math.hypot((column + 0.5 - x) / across, (row + 0.5 - y) / down);
        if (isUnder || far <= 1) map[row * ACROSS + column] = 1;
      }
    if (map.some(Boolean)) this.#marks[id] = map;
    this.#paint();
  }

  /* --- showing ------------------------------------------------------------------------------------- */
  /* Where the picture is on the screen, zoomed and moved. */
  #shown(side) {
    return this.#grid.boxOf(side).querySelector(".frame img").getBoundingClientRect();
  }

  #canvas(side) {
    return this.#grid.boxOf(side).querySelector(".marks");
  }

  #paint() {
    this.#box.classList.toggle("brushing", this.isOn);
    for (const side of sidesOf(this.#asked)) {
      const canvas = this.#canvas(side);
      const map = this.#marks[pictureAt(this.#asked, side).image_id];
      canvas.hidden = !map;
      if (!map) continue;
      const context = canvas.getContext("2d");
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.fillStyle = getComputedStyle(canvas).color;
      map.forEach((is, place) => { if (is) dot(context, place % ACROSS, Math.floor(place / ACROSS)); });
    }
  }
}

/* Round, and a little larger than the place, so that neighbours flow together. */
function dot(context, column, row) {
  context.beginPath();
  context.arc((column + 0.5) * PLACE_PX, (row + 0.5) * PLACE_PX, 0.8 * PLACE_PX, 0, 2 * Math.PI);
  context.fill();
}

function encoded(map) {
  const digits = [];
  for (let at = 0; at < map.length; at += 4)
    digits.push((8 * map[at] + 4 * map[at + 1] + 2 * map[at + 2] + map[at + 3]).toString(16));
  return digits.join("");
}

function decoded(marks) {
  const bits = (digit) => [...parseInt(digit, 16).toString(2).padStart(4, "0")].map(Number);
  const maps = Object.entries(marks).map(([id, digits]) => [id, Uint8Array.from([...digits].flatMap(bits))]);
  return Object.fromEntries(maps);
}
