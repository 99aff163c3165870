/* From a press to an answer: which picture is better, how much, and why. */
import { _ } from "../shared/messages.js";
import { isBetter, isChoice, isGrid, pictureAt, pictureName } from "./questions.js";

export class Choice {
  reason = null; // said before the choice it belongs to
  #queue;
  #grid;
  #brush;
  #page;

  /* page: { refresh(), say(words) } */
  constructor(queue, grid, brush, page) {
    this.#queue = queue;
    this.#grid = grid;
    this.#brush = brush;
    this.#page = page;
  }

  /* `what` is a side, or what all pictures are. */
  choose(what, much_better = false) {
    const asked = this.#queue.shown;
    if (!asked) return;
    if (isGrid(asked) && pictureAt(asked, what)) this.#rank(asked, this.#grid.choose(what));
    else if (isChoice(what) && !isBetter(what)) this.#give(asked, what, false, []);
    else if (!isGrid(asked)) this.#give(asked, what, much_better, [pictureAt(asked, what).image_id]);
  }

  /* Begins to put a grid in order; the second time keeps the order there is. */
  order() {
    const asked = this.#queue.shown;
    if (asked && isGrid(asked)) this.#rank(asked, this.#grid.toggleOrder());
  }

  #rank(asked, sides) {
    if (sides) this.#give(asked, "ranked", false, sides.map((side) => pictureAt(asked, side).image_id));
  }

  #give(asked, choice, much_better, ranking) {
    const reason = isBetter(choice) ? this.reason : null;
    const marks = isBetter(choice) ? this.#brush.marks : {};
    this.#queue.give(asked, { choice, much_better, reason, ranking, judge: null, marks });
  }

  /* Takes the brush up or puts it down. A pick that is open again is kept with its new marks. */
  brush() {
    const asked = this.#queue.shown;
    if (!this.#brush.canKeep) return this.#brush.toggle();
    const before = this.#queue.answered.get(asked.id);
    this.#queue.give(asked, { ...before, reason: this.reason, judge: null, marks: this.#brush.marks });
  }

  why(reason) {
    if (!this.#queue.shown) return;
    this.reason = this.reason === reason ? null : reason;
    this.#page.refresh();
  }

  star(side) {
    const starred = pictureAt(this.#queue.shown, side);
    if (!starred) return;
    const favourite = !starred.favourite;
    this.#queue.setFavourite(starred.image_id, favourite);
    this.#page.say(favourite
      ? _("{picture} is a favourite.", { picture: pictureName(side) }) : _("No favourite any more."));
  }
}
