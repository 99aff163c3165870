/* The keys of Prefer, the card that shows them, and changing them. */
import { node, partsOf } from "../shared/dom.js";
import { areKeysTaken, meaningOf, namesOf } from "../shared/keys.js";
import { _ } from "../shared/messages.js";
import { recall, remember } from "../shared/storage.js";
import { isBetter, isChoice } from "./questions.js";

const USUAL = {
  left: ["1", "ArrowLeft"], right: ["2", "ArrowRight"],
  tie: ["ArrowDown", "3"], both_bad: ["0"], skip: ["s"], undo: ["z"],
  composition: ["q"], detail: ["w"], colour: ["e"], subject: ["r"], order: ["o"], brush: ["b"],
  flip: ["Space"], zoom_in: ["+", "="], zoom_out: ["-"],
  prompt: ["p"], star_left: ["f"], star_right: ["g"], note: ["n"], strip: ["h"], keys: ["?"],
};
const MEANS = {
  left: _("the left picture is better"), right: _("the right picture is better"),
  tie: _("just as good: teaches nothing, does no harm"), both_bad: _("neither is any good"),
  skip: _("skip, no opinion"), undo: _("undo, back to the pair before"),
  composition: _("better for its composition"), detail: _("better for its detail"),
  colour: _("better for its colour"), subject: _("better for its subject"),
  brush: _("brush: mark what decided; again: put it down"),
  order: _("put more than two pictures in order; again: keep the order"),
  flip: _("flip: all in one place, in turns"), zoom_in: _("zoom in, all pictures"), zoom_out: _("zoom out"),
  prompt: _("hide or show the prompt"), star_left: _("the left picture is a favourite"),
  star_right: _("the right picture is a favourite"), note: _("a note on this pair"),
  strip: _("what you picked, to change it"), keys: _("this card"),
};
// Not to be changed: what they add to other keys, and what they mean everywhere.
const FIXED = [
  [_("Shift + choice"), _("much better")],
  ["1 … 9", _("of more than two pictures: this one is the best, or the next in order")],
  ["Alt + ← ↑ ↓ →", _("move the pictures when they are zoomed; or drag them")],
  ["Esc", _("back to the whole pictures, side by side")],
];
const RESERVED = ["Tab", "Enter", "Escape"];
const MODIFIERS = ["Shift", "Control", "Alt", "AltGraph", "Meta", "CapsLock", "Dead", "Unidentified"];
const SIGNS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };

const sign = (key) => SIGNS[key] || (key.length === 1 ? key.toUpperCase() : key);

export class Keys {
  #element;
  #part;
  #card;
  #changed;
  #keys = recallKeys();
  #changing = null; // what the next key is for, while the card waits for it

  /* `changed()` is called whenever a key has another meaning. */
  constructor(element, changed) {
    this.#element = element;
    this.#part = partsOf(element);
    this.#card = element.querySelector("dialog.keys");
    this.#changed = changed;
    this.#card.addEventListener("keydown", (event) => this.#change(event));
    this.#card.addEventListener("cancel", (event) => { if (this.#changing) event.preventDefault(); });
  }

  /* The keys for something, as they are written. */
  signs(what) {
    return this.#keys[what].map(sign);
  }

  meaning(event) {
    const named = Object.entries(this.#keys).flatMap(([what, keys]) => keys.map((key) => [key, what]));
    return meaningOf(event, Object.fromEntries(named));
  }

  /* --- the card ------------------------------------------------------------------------------------ */
  open() {
    this.#say("");
    this.#waitFor(null);
    this.#card.showModal();
    this.#card.scrollTop = 0;
  }

  show() {
    for (const mark of this.#element.querySelectorAll("[data-key]")) mark.textContent = this.signs(mark.dataset.key)[0];
    const rows = Object.keys(USUAL).map((what) => row(this.signs(what), MEANS[what], this.#changeButton(what)));
    const [shift, digits, ...others] = FIXED.map(([key, words]) => row([key], words));
    rows.splice(2, 0, shift, digits);
    this.#part("keys").replaceChildren(...rows, ...others);
    this.#element.querySelector('[data-act="usual"]').disabled = this.#keys === USUAL;
    this.#changed();
  }

  #changeButton(what) {
    const isChanging = this.#changing === what;
    const button = node("button", {
      type: "button", class: "button quiet small", "data-change": what,
      "aria-label": isChanging ? _("Press a key for: {meaning}", { meaning: MEANS[what] })
        : _("Change the key for: {meaning}", { meaning: MEANS[what] }),
    }, isChanging ? _("Press a key") : _("Change"));
    button.addEventListener("click", () => this.#waitFor(isChanging ? null : what));
    return button;
  }

  #waitFor(what) {
    this.#changing = what;
    this.show();
    if (what) this.#focus(what);
  }

  #focus(what) {
    this.#card.querySelector('[data-change="' + what + '"]').focus();
  }

  #say(words) {
    this.#part("keys-said").textContent = words;
  }

  takeUsual() {
    this.#keys = USUAL;
    remember("keys", "{}");
    this.#waitFor(null);
    this.#say(_("The usual keys are back."));
  }

  /* --- changing a key ------------------------------------------------------------------------------ */
  #change(event) {
    if (!this.#changing || event.ctrlKey || event.metaKey || event.altKey || MODIFIERS.includes(event.key)) return;
    const [key] = namesOf(event);
    if (!key) return;
    event.preventDefault();
    event.stopPropagation();
    if (key === "Escape") {
      this.#waitFor(null);
      return this.#say(_("Left as it was."));
    }
    const problem = this.#refusal(key, this.meaning(event));
    if (problem) this.#say(problem);
    else this.#take(key);
  }

  /* A sentence when `key`, which means something already, cannot be the one. */
  #refusal(key, taken) {
    if (RESERVED.includes(key)) 
      return _("{key} keeps the meaning it has everywhere. Choose another key.", { key });
    if (taken && taken !== this.#changing)
      return _("{key} already means: {meaning}. Choose another key.", { key: sign(key), meaning: MEANS[taken] });
    if (isBetter(this.#changing) && !/^([\p{L}\d]|Arrow\w+)$/u.test(key))
      return _("Choose a letter, a digit or an arrow: with Shift it means much better.");
    return "";
  }

  #take(key) {
    const what = this.#changing;
    this.#keys = { ...this.#keys, [what]: [key] };
    const own = Object.entries(this.#keys).filter(([name, keys]) => keys !== USUAL[name]);
    remember("keys", JSON.stringify(Object.fromEntries(own.map(([name, keys]) => [name, keys[0]]))));
    this.#waitFor(null);
    this.#focus(what);
    this.#say(_("{key} now means: {meaning}.", { key: sign(key), meaning: MEANS[what] }));
  }
}

function recallKeys() {
  try {
    const own = JSON.parse(recall("keys")) || {};
    const good = Object.entries(own).filter(([what, key]) => what in USUAL && typeof key === "string");
    return { ...USUAL, ...Object.fromEntries(good.map(([what, key]) => [what, [key]])) };
  } catch {
    return USUAL;
  }
}

function row(signs, words, button) {
  const about = node("dd", {}, words);
  if (button) about.append(button);
  return node("div", {}, node("dt", {}, ...signs.map((one) => node("kbd", {}, one))), about);
}

/* --- a key is pressed ------------------------------------------------------------------------------ */
const PANS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/* acts: what each key does by its name, and choose(what, much_better); pan(right, down) and stepBack(),
 * which return whether there was anything to do; numbers(), of the places of a grid; isSeen(). */
export function listen(keys, acts, signal) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || !acts.isSeen() || areKeysTaken(event) || isPressing(event)) return;
    if (!act(event, keys, acts)) return;
    event.preventDefault();
    event.stopPropagation(); // the tab bar listens to the arrows too
  }, { capture: true, signal });
}

/* Whether the key meant something. */
function act(event, keys, acts) {
  if (event.altKey) {
    const direction = meaningOf(event, PANS);
    return direction && acts.pan(...direction);
  }
  if (meaningOf(event, { Escape: true })) return acts.stepBack();
  const place = meaningOf(event, Object.fromEntries(acts.numbers().map((number) => [number, number])));
  const what = place || keys.meaning(event);
  if (!what || (event.repeat && !what.startsWith("zoom"))) return false;
  if (place || isChoice(what)) acts.choose(what, event.shiftKey);
  else acts[what]();
  return true;
}

/* Who walks the page by Tab presses its buttons with Space; but the open tab is open already. */
function isPressing(event) {
  return event.key === " " && event.target.matches?.(":is(button, a, summary):focus-visible")
    && event.target.ariaSelected !== "true";
}
