/* Looking closely: the pictures side by side or in one place, zoomed and moved in step.
 *
 * The view belongs to no picture, and stays when the next ones come. x and y say how far the
 * middle of a picture lies from the middle of its frame, in frames.
 */
import { _ } from "../shared/messages.js";
import { isGrid, pictureWithin, sidesOf } from "./questions.js";

const ZOOM_STEP = 1.5;
const MOST_ZOOM = 16;
const PAN_STEP = 0.15;
const DRAG_PX = 6; // less than that is a click
const LARGE_PX = 3; // a picture's pixel that covers so many of the screen's is shown as it is
const LINE_PX = 33; // of a wheel that counts in lines

export class View {
  #box;
  #grid;
  #page;
  #asked = null; // the question that is shown
  #zoom = 1;
  #x = 0;
  #y = 0;
  #alone = null; // the side that is shown alone
  #fingers = new Map(); // pointer id -> where it is
  #first = null; // the first finger: what it began on, and where
  #isDragged = false;
  #isBrushing;

  /* page: { say(words), part(name), act(name) }. isBrushing(): whether one finger draws. */
  constructor(box, grid, page, isBrushing, signal) {
    this.#box = box;
    this.#grid = grid;
    this.#page = page;
    this.#isBrushing = isBrushing;
    this.#listen(signal);
  }

  get isZoomed() {
    return this.#zoom > 1;
  }

  /* How many are on the pictures. */
  get fingers() {
    return this.#fingers.size;
  }

  get isAlone() {
    return Boolean(this.#alone);
  }

  /* Another question: what is shown alone begins with its first side. */
  show(asked) {
    if (this.#alone) [this.#alone] = sidesOf(asked);
  }

  paint(asked) {
    this.#asked = asked;
    this.#box.classList.toggle("zoomed", this.isZoomed);
    this.#box.style.setProperty("--zoom", this.#zoom);
    this.#box.style.setProperty("--x", 100 * this.#x + "%");
    this.#box.style.setProperty("--y", 100 * this.#y + "%");
    this.#box.classList.toggle("flipping", this.isAlone);
    for (const box of this.#box.children)
      box.classList.toggle("behind", this.isAlone && box.dataset.side !== this.#alone);
    this.#page.act("apart").hidden = !this.isAlone;
    const digits = this.#zoom < 10 ? 1 : 0;
    this.#page.part("zoom").textContent = Number(this.#zoom.toFixed(digits)) + "×";
    this.#box.classList.toggle("pixels", this.#showsPixels());
  }

  #showsPixels() {
    if (!this.isZoomed || !this.#asked) return false;
    const box = this.#grid.boxOf(this.#alone || sidesOf(this.#asked)[0]);
    const covered = (box.offsetWidth / this.#asked.width_px) * this.#zoom;
    return covered * devicePixelRatio >= LARGE_PX;
  }

  /* --- zooming and moving -------------------------------------------------------------------------- */
  #moveTo(zoom, x, y) {
    this.#zoom = Math.min(MOST_ZOOM, Math.max(1, zoom));
    const most = (this.#zoom - 1) / 2; // no further than to the picture's edge
    this.#x = Math.min(most, Math.max(-most, x));
    this.#y = Math.min(most, Math.max(-most, y));
    this.paint(this.#asked);
  }

  /* (x, y) of the frame stays where it is; it is given from the middle, in frames. */
  #zoomBy(factor, x = 0, y = 0) {
    const zoom = Math.min(MOST_ZOOM, Math.max(1, this.#zoom * factor));
    const grown = zoom / this.#zoom;
    this.#moveTo(zoom, x - (x - this.#x) * grown, y - (y - this.#y) * grown);
  }

  #panBy(x, y) {
    this.#moveTo(this.#zoom, this.#x + x, this.#y + y);
  }

  zoomIn() {
    this.#zoomBy(ZOOM_STEP);
  }

  zoomOut() {
    this.#zoomBy(1 / ZOOM_STEP);
  }

  /* By steps, to the right and down. */
  pan(right, down) {
    this.#panBy(right * PAN_STEP, down * PAN_STEP);
  }

  fit() {
    this.#moveTo(1, 0, 0);
  }

  /* --- all pictures in one place ------------------------------------------------------------------- */
  flip() {
    if (!this.#asked) return;
    const sides = sidesOf(this.#asked);
    this.#alone = sides[(sides.indexOf(this.#alone) + 1) % sides.length];
    this.paint(this.#asked);
    this.#page.say(_("Showing {picture}.", { picture: pictureWithin(this.#alone) }));
  }

  apart() {
    this.#alone = null;
    this.paint(this.#asked);
    this.#page.say(_("Side by side."));
  }

  /* --- wheel, drag and pinch ----------------------------------------------------------------------- */
  #listen(signal) {
    this.#box.addEventListener("wheel", (event) => this.#turn(event), { passive: false, signal });
    this.#box.addEventListener("pointerdown", (event) => this.#press(event), { signal });
    document.addEventListener("pointermove", (event) => this.#move(event), { signal });
    for (const name of ["pointerup", "pointercancel"])
      document.addEventListener(name, (event) => {
        this.#grid.drop(name === "pointerup");
        this.#fingers.delete(event.pointerId);
      }, { signal });
    this.#box.addEventListener("click", (event) => {
      if (this.#isDragged && event.detail) event.stopPropagation(); // the end of a drag is no choice
      this.#isDragged = false;
    }, { capture: true, signal });
    addEventListener("resize", () => this.paint(this.#asked), { signal });
  }

  #turn(event) {
    if (!event.target.closest(".choice")) return;
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? LINE_PX : 1;
    const speed = event.ctrlKey ? 0.01 : 0.002; // a pinch on a touchpad comes as a small wheel
    this.#zoomBy(Math.exp(-event.deltaY * lines * speed), ...placeIn(event.target, event.clientX, event.clientY));
  }

  #press(event) {
    if (event.button || !event.target.closest(".choice")) return;
    if (!this.#fingers.size) {
      this.#first = { target: event.target, x: event.clientX, y: event.clientY };
      this.#isDragged = false;
    }
    this.#fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  #move(event) {
    const from = this.#fingers.get(event.pointerId);
    if (!from) return;
    const to = { x: event.clientX, y: event.clientY };
    if (this.#fingers.size > 1) this.#pinch(event.pointerId, from, to);
    else if (!this.#isBrushing()) this.#drag(from, to);
    this.#fingers.set(event.pointerId, to);
  }

  #drag(from, to) {
    const x = to.x - this.#first.x, y = to.y - this.#first.y;
    this.#isDragged ||= Math.hypot(x, y) >= DRAG_PX && (this.isZoomed || this.#canCarry);
    if (!this.#isDragged) return;
    if (this.#canCarry) return this.#grid.carry(this.#first.target, { x, y, clientX: to.x, clientY: to.y });
    this.#grid.drop(false);
    const box = boxAround(this.#first.target);
    this.#panBy((to.x - from.x) / box.width, (to.y - from.y) / box.height);
  }

  /* The whole pictures of a grid can be dragged to other places. */
  get #canCarry() {
    return Boolean(this.#asked && isGrid(this.#asked) && !this.isZoomed && !this.isAlone);
  }

  #pinch(id, from, to) {
    this.#grid.drop(false);
    this.#isDragged = true;
    const box = boxAround(this.#first.target);
    const [other] = [...this.#fingers].filter(([one]) => one !== id).map(([, place]) => place);
    const apart_px = (place) => Math.max(1, Math.hypot(place.x - other.x, place.y - other.y));
    this.#panBy((to.x - from.x) / 2 / box.width, (to.y - from.y) / 2 / box.height);
    const middle = placeIn(this.#first.target, (to.x + other.x) / 2, (to.y + other.y) / 2);
    this.#zoomBy(apart_px(to) / apart_px(from), ...middle);
  }
}

function boxAround(target) {
  return target.closest(".choice").getBoundingClientRect();
}

/* Where a point lies in the frame: from its middle, in frames. */
function placeIn(target, clientX, clientY) {
  const box = boxAround(target);
  return [(clientX - box.x) / box.width - 0.5, (clientY - box.y) / box.height - 0.5];
}
