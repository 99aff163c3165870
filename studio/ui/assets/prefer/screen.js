/* What is on the screen: the first question of the line, what is known of it, and how many picks. */
import { partsOf } from "../shared/dom.js";
import { _, ngettext } from "../shared/messages.js";
import { recall, remember } from "../shared/storage.js";
import { decided, isGrid, pictureAt } from "./questions.js";

const WAIT = { title: _("One moment"), text: "", working: true };
const FETCHING = { ...WAIT, text: _("The next pictures are being fetched.") };

export class Screen {
  #element;
  #part;
  #parts;
  #hidesPrompt = recall("prompt") === "hidden";

  /* parts: { queue, pictures, choice, grid, brush, view, strip } */
  constructor(element, parts) {
    this.#element = element;
    this.#part = partsOf(element);
    this.#parts = parts;
  }

  #every(selector) {
    return this.#element.querySelectorAll(selector);
  }

  #act(name) {
    return this.#element.querySelector('[data-act="' + name + '"]');
  }

  refresh() {
    const { queue, pictures, grid, view } = this.#parts;
    const [next] = queue.line;
    if (!next) queue.onScreen = null;
    else if (pictures.isReady(next) && queue.onScreen !== next.id) {
      queue.onScreen = next.id;
      this.lay();
      view.show(next);
    }
    const asked = queue.shown;
    this.#part("pair").hidden = !asked;
    this.#part("empty").hidden = Boolean(asked);
    if (!asked) this.#explain(next ? FETCHING : queue.state.empty || WAIT);
    this.#paintButtons(asked);
    this.#paintPrompt();
    this.#paintOrder(asked);
    this.#paintBrush();
    grid.paint(asked);
    view.paint(asked);
    this.#count();
  }

  /* Puts the question into its places, as it was answered before. */
  lay() {
    const { queue, pictures, grid, choice, brush } = this.#parts;
    const before = queue.answered.get(queue.shown.id);
    grid.lay(queue.shown, before, (url) => pictures.img(url));
    brush.lay(queue.shown, before);
    choice.reason = before?.reason || null;
  }

  #paintButtons(asked) {
    const { queue, choice, strip } = this.#parts;
    const before = asked && queue.answered.get(asked.id);
    for (const button of this.#every("[data-choice]")) {
      button.disabled = !asked;
      const was = before?.choice === button.dataset.choice;
      button.classList.toggle("was", Boolean(was && (!("much" in button.dataset) || before.much_better)));
    }
    for (const button of this.#every("[data-reason], .star, [data-act=note], .looking button:not([data-size])"))
      button.disabled = !asked;
    for (const button of this.#every("[data-reason]")) press(button, button.dataset.act === choice.reason);
    for (const star of this.#every(".star")) {
      const { side } = star.closest("[data-side]").dataset;
      press(star, pictureAt(asked, side)?.favourite);
    }
    for (const button of this.#every("[data-size]")) press(button, Number(button.dataset.size) === queue.state.pictures);
    this.#part("note-act").textContent = asked?.note ? _("Note") + " •" : _("Note");
    this.#act("note").title = asked?.note || "";
    this.#part("reopened").hidden = !asked?.reopened;
    this.#act("strip").ariaExpanded = String(strip.isOpen);
    press(this.#act("favourites"), strip.onlyFavourites);
  }

  togglePrompt() {
    this.#hidesPrompt = !this.#hidesPrompt;
    remember("prompt", this.#hidesPrompt ? "hidden" : "shown");
    this.#paintPrompt();
  }

  #paintPrompt() {
    const asked = this.#parts.queue.shown;
    this.#part("prompt").textContent = asked && !this.#hidesPrompt ? asked.prompt : "";
    this.#part("source").textContent = asked ? asked.source : "";
    this.#part("prompt-act").textContent = this.#hidesPrompt ? _("Show prompt") : _("Hide prompt");
    press(this.#act("prompt"), this.#hidesPrompt);
  }

  #paintOrder(asked) {
    const { grid } = this.#parts;
    const hasOrder = Boolean(asked && isGrid(asked));
    const isKept = hasOrder && grid.isOrdering && grid.order.length > 0;
    const button = this.#act("order");
    button.hidden = !hasOrder;
    press(button, hasOrder && grid.isOrdering);
    button.classList.toggle("primary", isKept);
    this.#part("order-act").textContent = isKept ? _("Keep this order") : _("Order");
  }

  #paintBrush() {
    const { brush } = this.#parts;
    const button = this.#act("brush");
    press(button, brush.isOn || brush.hasMarks);
    button.classList.toggle("primary", brush.canKeep);
    this.#part("brush-act").textContent = brush.canKeep ? _("Keep these marks")
      : brush.isOn ? _("Done") : _("Mark");
  }

  /* Why there is no question on the screen. */
  #explain({ title, text, working, action, tab }) {
    this.#part("empty").classList.toggle("working", Boolean(working));
    this.#part("empty-title").textContent = title;
    this.#part("empty-text").textContent = text;
    const button = this.#part("empty-action");
    button.hidden = !action;
    button.textContent = action || "";
    button.dataset.openTab = tab || "";
  }

  #count() {
    const { queue } = this.#parts;
    const { state } = queue;
    const unsent = queue.unsentPicks.filter((entry) => !entry.about.asked.reopened);
    const counts = state.counts || { total: 0, new: 0 };
    const total = counts.total + unsent.length;
    const fresh = unsent.reduce((sum, { about: { asked }, payload }) =>
      sum + (asked.again ? 0 : decided(asked, payload)), counts.new);
    const [before, after] = ngettext("{number} pick", "{number} picks", total, { number: "|" }).split("|");
    this.#part("total").textContent = total;
    this.#part("before").textContent = before;
    this.#part("noun").textContent = after.trim();
    const left = Math.max(0, state.round_every - fresh);
    const next = left ? _("{number} to the next round", { number: left }) : _("The next round begins");
    const words = state.round || (state.live ? next : "");
    this.#part("round").textContent = words;
    this.#part("known").textContent = state.known ? (words ? "· " : "") + state.known : "";
    const share = state.round_share ?? (state.live ? Math.min(1, fresh / state.round_every) : 0);
    this.#part("bar").style.inlineSize = 100 * share + "%";
    this.#part("bar").parentElement.classList.toggle("learning", state.round_share != null);
    this.#act("undo").disabled = !total && !queue.behind.length && !this.#parts.brush.hasMarks;
  }
}

function press(button, isPressed) {
  button.ariaPressed = String(Boolean(isPressed));
}
