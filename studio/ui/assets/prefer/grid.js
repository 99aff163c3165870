/* The places of the pictures, as many as there are pictures; and putting those of a grid in order.
 *
 * The best one is enough: its number, or a click, answers. Or they are put in order, by numbers and
 * clicks or by dragging them: `order` holds the sides, the best first, and those that it does not
 * name are worse than those it does.
 */
import { _ } from "../shared/messages.js";
import { ORDINALS, NAMES, isGrid, pictureAt, pictureName, pictureWithin, sidesOf } from "./questions.js";

const COLUMNS = { 4: 2, 6: 3, 9: 3 };

export class Grid {
  #box;
  #pattern; // a place, to make others of
  #signs;
  #page;
  #asked = null; // what lies in the places
  #order = [];
  #isOrdering = false;
  #carried = null; // the place under the pointer, on its way
  #target = null; // where it would come to lie

  /* signs(side): the keys of a side, as they are written. page: { say(words), changed() }, which is
   * called when the order has changed. */
  constructor(box, signs, page) {
    this.#box = box;
    this.#pattern = box.querySelector(".side").cloneNode(true);
    this.#signs = signs;
    this.#page = page;
  }

  get isOrdering() {
    return this.#isOrdering;
  }

  get order() {
    return this.#order;
  }

  boxOf(side) {
    return this.#box.querySelector('[data-side="' + side + '"]');
  }

  /* --- the places -------------------------------------------------------------------------------- */
  /* Puts the pictures of a question into their places, in the order of an earlier answer. */
  lay(asked, before, imgOf) {
    this.#asked = asked;
    const sides = sidesOf(asked);
    const there = [...this.#box.children].map((box) => box.dataset.side);
    if (String(there) !== String(sides))
      this.#box.replaceChildren(...sides.map((side) => this.boxOf(side) || this.#place(side)));
    this.#box.classList.toggle("grid", isGrid(asked));
    this.#box.style.setProperty("--ratio", asked.width_px / asked.height_px);
    this.#box.style.setProperty("--count", sides.length);
    this.#box.style.setProperty("--columns", COLUMNS[sides.length] || sides.length);
    for (const side of sides)
      this.boxOf(side).querySelector(".frame").replaceChildren(imgOf(pictureAt(asked, side).url));
    const ranking = isGrid(asked) ? before?.ranking || [] : [];
    const rankOf = (side) => ranking.indexOf(pictureAt(asked, side).image_id);
    this.#order = sides.filter((side) => rankOf(side) >= 0).sort((one, other) => rankOf(one) - rankOf(other));
    this.#isOrdering = this.#order.length > 1;
    this.nameChoices();
  }

  #place(side) {
    const box = this.#pattern.cloneNode(true);
    box.dataset.side = side;
    const choice = box.querySelector(".choice");
    const star = box.querySelector(".star");
    choice.dataset.choice = side;
    star.dataset.act = "star_" + side;
    star.ariaLabel = _("Favourite: {picture}", { picture: pictureWithin(side) });
    const isSide = isNaN(side);
    box.querySelector(".flip-label").textContent = isSide ? NAMES[side] : pictureName(side);
    const much = box.querySelector(".much");
    const key = choice.querySelector("kbd");
    key.textContent = isSide ? this.#signs(side)[0] : side;
    if (isSide) {
      choice.dataset.says = side === "left" ? _("The left picture is better") : _("The right picture is better");
      much.dataset.choice = key.dataset.key = side;
      much.ariaLabel = side === "left" ? _("The left picture is much better (Shift and its key)")
        : _("The right picture is much better (Shift and its key)");
    } else {
      much.remove();
      delete key.dataset.key;
    }
    return box;
  }

  /* Names what a press on a picture means just now, for those who hear the page. */
  nameChoices() {
    for (const button of this.#box.querySelectorAll(".choice")) {
      const { side } = button.closest(".side").dataset;
      const at = this.#order.indexOf(side);
      const isSide = isNaN(side);
      const picture = pictureName(side);
      const words = isSide ? button.dataset.says
        : at >= 0 ? _("{picture}, now {place}", { picture, place: ORDINALS[at] })
          : this.#isOrdering ? _("{picture} is the next in order", { picture }) : _("{picture} is the best one", { picture });
      const keys = (isSide ? this.#signs(side) : [side]).join(_(" or "));
      button.ariaLabel = _("{words} (key {keys})", { words, keys });
    }
  }

  /* Marks the ranks on the places; of no question when there is none. */
  paint(asked) {
    const hasOrder = Boolean(asked && isGrid(asked));
    this.#box.classList.toggle("ordering", hasOrder && this.#isOrdering);
    for (const box of this.#box.children) {
      const at = hasOrder ? this.#order.indexOf(box.dataset.side) : -1;
      box.querySelector(".rank").textContent = at < 0 ? "" : ORDINALS[at];
    }
    this.nameChoices();
  }

  /* --- the order --------------------------------------------------------------------------------- */
  /* A picture is the best one, or the next in order. Returns the sides that this answers with, the best
   * first; null while the order is being made. */
  choose(side) {
    if (!this.#isOrdering) return [side];
    const order = this.#order;
    this.#order = order.includes(side) ? order.filter((one) => one !== side) : [...order, side];
    const left = sidesOf(this.#asked).filter((one) => !this.#order.includes(one));
    if (left.length === 1 && this.#order.at(-1) === side) this.#order.push(left[0]); // no other place is left
    this.#page.changed();
    const at = this.#order.indexOf(side);
    const picture = pictureName(side);
    this.#page.say(at < 0 ? _("{picture} is taken out of the order.", { picture })
      : _("{picture} is {place}.", { picture, place: ORDINALS[at] }));
    return null;
  }

  /* Begins to put in order. Returns the order, once there is one. */
  toggleOrder() {
    if (this.#isOrdering && this.#order.length) return this.#order;
    this.#isOrdering = !this.#isOrdering;
    this.#page.changed();
    this.#page.say(this.#isOrdering
      ? _("Best first: press their numbers, or the pictures. Then keep the order.") : "");
    return null;
  }

  leaveOrder() {
    this.#isOrdering = false;
    this.#order = [];
    for (const side of sidesOf(this.#asked)) this.#box.append(this.boxOf(side));
    this.#page.changed();
    this.#page.say(_("No order."));
  }

  /* --- dragging ---------------------------------------------------------------------------------- */
  /* The place that was pressed goes with the pointer, which is now at `clientX`, `clientY`. */
  carry(pressed, { x, y, clientX, clientY }) {
    this.#carried ||= pressed.closest(".side");
    this.#carried.classList.add("carried");
    this.#carried.style.translate = x + "px " + y + "px";
    const under = document.elementFromPoint(clientX, clientY)?.closest(".prefer-pair > .side");
    this.#target?.classList.remove("target");
    this.#target = under && under !== this.#carried ? under : null;
    this.#target?.classList.add("target");
  }

  /* The place that is carried is let go, and stays where it is when `isThere`. */
  drop(isThere) {
    if (!this.#carried) return;
    const [box, onto] = [this.#carried, this.#target];
    this.#carried = this.#target = null;
    box.classList.remove("carried");
    onto?.classList.remove("target");
    box.style.translate = "";
    if (!isThere || !onto) return;
    const boxes = [...this.#box.children];
    if (boxes.indexOf(box) < boxes.indexOf(onto)) onto.after(box);
    else onto.before(box);
    this.#isOrdering = true;
    this.#order = [...this.#box.children].map((one) => one.dataset.side);
    this.#page.changed();
    const { side } = box.dataset;
    const place = ORDINALS[this.#order.indexOf(side)];
    this.#page.say(_("{picture} is {place}. Then keep the order.", { picture: pictureName(side), place }));
  }
}
