/* The pictures in rows. Only those near the screen are in the page, however many there are. */
import { node } from "../shared/dom.js";
import { _ } from "../shared/messages.js";

const GAP_PX = 8;
const LEAST_PX = 160; // of a picture's side
const LEAST_NARROW_PX = 104;
const NARROW_PX = 600;
const ROWS_AROUND = 2; // above and below the screen

export const VERDICTS = { chosen: _("Chosen"), passed_over: _("Passed over"), undecided: _("Undecided") };
const MARKS = { chosen: "✓", passed_over: "✗" };

export class List {
  active = 0; // the place that the keys are at
  selected = new Map(); // id -> picture
  #scroll;
  #all;
  #pages;
  #columns = 1;
  #side_px = LEAST_PX;
  #cells = new Map(); // place -> element
  #isDue = false;

  constructor(scroll, all, pages) {
    this.#scroll = scroll;
    this.#all = all;
    this.#pages = pages;
    scroll.addEventListener("scroll", () => this.paintSoon(), { passive: true });
    new ResizeObserver(() => this.#measure()).observe(scroll);
  }

  get columns() {
    return this.#columns;
  }

  get isAtTop() {
    return this.#scroll.scrollTop === 0;
  }

  get rowsOnScreen() {
    return Math.max(1, Math.floor(this.#scroll.clientHeight / this.#row_px));
  }

  get #row_px() {
    return this.#side_px + GAP_PX;
  }

  /* The place under the pointer, or undefined. */
  placeOf(target) {
    const cell = target.closest(".gallery-picture");
    return cell ? Number(cell.dataset.place) : undefined;
  }

  goTo(place) {
    this.active = Math.max(0, Math.min(place, this.#pages.total - 1));
    const top = Math.floor(this.active / this.#columns) * this.#row_px;
    const lowest = top + this.#row_px - this.#scroll.clientHeight;
    this.#scroll.scrollTop = Math.min(top, Math.max(lowest, this.#scroll.scrollTop));
    this.paint();
  }

  toTop() {
    this.#scroll.scrollTop = 0;
    this.active = 0;
  }

  #measure() {
    const width = this.#all.clientWidth;
    if (!width) return; // another tab is open
    const first = Math.floor(this.#scroll.scrollTop / this.#row_px) * this.#columns;
    const least = innerWidth < NARROW_PX ? LEAST_NARROW_PX : LEAST_PX;
    this.#columns = Math.max(1, Math.floor((width + GAP_PX) / (least + GAP_PX)));
    this.#side_px = (width + GAP_PX) / this.#columns - GAP_PX;
    this.#stretch();
    this.#scroll.scrollTop = Math.floor(first / this.#columns) * this.#row_px; // the same on top
    this.paint();
  }

  #stretch() {
    const rows = Math.ceil(this.#pages.total / this.#columns);
    this.#all.style.blockSize = Math.max(0, rows * this.#row_px - GAP_PX) + "px";
  }

  paintSoon() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => { this.#isDue = false; this.paint(); });
  }

  paint() {
    this.#stretch();
    const { scrollTop, clientHeight } = this.#scroll;
    const top = Math.floor(scrollTop / this.#row_px) - ROWS_AROUND;
    const bottom = Math.floor((scrollTop + clientHeight) / this.#row_px) + ROWS_AROUND;
    const first = Math.max(0, top * this.#columns);
    const last = Math.min(this.#pages.total, (bottom + 1) * this.#columns) - 1;
    for (const [place, cell] of this.#cells)
      if (place < first || place > last) {
        cell.remove();
        this.#cells.delete(place);
      }
    if (last < first) return;
    this.#pages.need(first, last);
    for (let place = first; place <= last; place++) this.#paintCell(place);
    if (this.#cells.has(this.active)) this.#scroll.setAttribute("aria-activedescendant", "gallery-" + this.active);
    else this.#scroll.removeAttribute("aria-activedescendant");
  }

  #paintCell(place) {
    let cell = this.#cells.get(place);
    if (!cell) {
      cell = node("div", { class: "gallery-picture", role: "option", id: "gallery-" + place, "data-place": place });
      this.#cells.set(place, cell);
      this.#all.append(cell);
    }
    const picture = this.#pages.at(place);
    const [x, y] = [place % this.#columns, Math.floor(place / this.#columns)].map((n) => n * this.#row_px);
    cell.style.cssText = "inline-size:" + this.#side_px + "px;block-size:" + this.#side_px + "px;translate:" + x + "px " + y + "px";
    cell.setAttribute("aria-posinset", place + 1);
    cell.setAttribute("aria-setsize", this.#pages.total);
    cell.setAttribute("aria-selected", Boolean(picture && this.selected.has(picture.id)));
    cell.setAttribute("aria-label", picture ? spoken(picture) : _("Picture {number}", { number: place + 1 }));
    cell.classList.toggle("active", place === this.active);
    cell.dataset.verdict = picture?.verdict || "";
    if (cell.dataset.shows !== shows(picture)) this.#fill(cell, picture);
  }

  #fill(cell, picture) {
    cell.dataset.shows = shows(picture);
    if (!picture) return cell.replaceChildren();
    let img = cell.querySelector("img");
    if (img?.getAttribute("src") !== picture.thumbnail) {
      img = node("img", { src: picture.thumbnail, alt: "", decoding: "async", draggable: "false" });
      img.addEventListener("error", () => cell.classList.add("gone"));
    }
    cell.classList.remove("gone");
    cell.title = picture.prompt;
    const marks = [picture.favourite && "★", MARKS[picture.verdict]].filter(Boolean);
    cell.replaceChildren(img, node("i", { class: "gallery-check", "data-select": "" }),
      ...(marks.length ? [node("i", { class: "gallery-marks" }, marks.join(" "))] : []));
  }
}

function shows(picture) {
  return picture ? [picture.id, picture.favourite, picture.verdict].join(" ") : "";
}

/* A picture in words. */
export function spoken(picture) {
  const said = [picture.prompt, picture.about, VERDICTS[picture.verdict], picture.favourite && _("favourite")];
  return said.filter(Boolean).join(", ");
}
