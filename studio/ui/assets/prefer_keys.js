/* The keys, the card that shows them, and changing them.
 *
 * A key is known by what it writes, so that Z is where the keyboard has a Z; but a digit by its
 * place, because with Shift, or on a French keyboard, it writes something else.
 */
const USUAL_KEYS = {
  left: ["1", "ArrowLeft"], right: ["2", "ArrowRight"],
  tie: ["ArrowDown", "3"], both_bad: ["0"], skip: ["s"], undo: ["z"],
  composition: ["q"], detail: ["w"], colour: ["e"], subject: ["r"], order: ["o"],
  flip: ["Space"], zoom_in: ["+", "="], zoom_out: ["-"],
  prompt: ["p"], star_left: ["f"], star_right: ["g"], note: ["n"], strip: ["h"], keys: ["?"],
};
const MEANS = {
  left: "the left picture is better", right: "the right picture is better",
  tie: "just as good: teaches nothing, does no harm", both_bad: "neither is any good",
  skip: "skip, no opinion", undo: "undo, back to the pair before",
  composition: "better for its composition", detail: "better for its detail",
  colour: "better for its colour", subject: "better for its subject",
  order: "put more than two pictures in order; again: keep the order",
  flip: "flip: all in one place, in turns", zoom_in: "zoom in, all pictures", zoom_out: "zoom out",
  prompt: "hide or show the prompt", star_left: "the left picture is a favourite",
  star_right: "the right picture is a favourite", note: "a note on this pair",
  strip: "what you picked, to change it", keys: "this card",
};
// Not to be changed: what they add to other keys, and what they mean everywhere.
const FIXED = [
  ["Shift + choice", "much better"],
  ["1 … 9", "of more than two pictures: this one is the best, or the next in order"],
  ["Alt + ← ↑ ↓ →", "move the pictures when they are zoomed; or drag them"],
  ["Esc", "back to the whole pictures, side by side"],
];
const RESERVED = ["Tab", "Enter", "Escape"];
const MODIFIERS = ["Shift", "Control", "Alt", "AltGraph", "Meta", "CapsLock", "Dead", "Unidentified"];
const PANS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const SIGNS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };

const keysCard = element.querySelector("dialog.keys");
let keys = recallKeys();
let changing = null; // what the next key is for, while the card waits for it

function recallKeys() {
  try {
    const own = JSON.parse(studio.recall("keys")) || {};
    const good = Object.entries(own).filter(([what, key]) => what in USUAL_KEYS && typeof key === "string");
    const taken = Object.fromEntries(good.map(([what, key]) => [what, [key]]));
    return { ...USUAL_KEYS, ...taken };
  } catch {
    return USUAL_KEYS;
  }
}

function keyOf(event) {
  if (/^Digit\d$/.test(event.code)) return event.code.at(-1);
  if (/^Numpad\d$/.test(event.code) && (event.shiftKey || /^\d$/.test(event.key))) return event.code.at(-1);
  if (event.key === " ") return "Space";
  return event.key.length === 1 ? event.key.toLowerCase() : event.key;
}
const sign = (key) => SIGNS[key] || (key.length === 1 ? key.toUpperCase() : key);
const meaning = (key) => Object.keys(keys).find((what) => keys[what].includes(key));

/* --- the card ---------------------------------------------------------------------------------- */
function kbd(text) {
  const made = document.createElement("kbd");
  made.textContent = text;
  return made;
}

function row(signs, words, button) {
  const made = document.createElement("div");
  const term = document.createElement("dt");
  term.append(...signs.map(kbd));
  const about = document.createElement("dd");
  about.append(words);
  if (button) about.append(button);
  made.append(term, about);
  return made;
}

function changeButton(what) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "button quiet small";
  button.dataset.change = what;
  button.textContent = changing === what ? "Press a key" : "Change";
  button.ariaLabel = (changing === what ? "Press a key for: " : "Change the key for: ") + MEANS[what];
  button.addEventListener("click", () => waitForKey(changing === what ? null : what));
  return button;
}

function showKeys() {
  for (const mark of every("[data-key]")) mark.textContent = sign(keys[mark.dataset.key][0]);
  nameChoices();
  const rows = Object.keys(USUAL_KEYS).map((what) => row(keys[what].map(sign), MEANS[what], changeButton(what)));
  rows.splice(2, 0, ...FIXED.slice(0, 2).map(([key, words]) => row([key], words)));
  part("keys").replaceChildren(...rows, ...FIXED.slice(2).map(([key, words]) => row([key], words)));
  act("usual").disabled = keys === USUAL_KEYS;
}

function openKeys() {
  sayOfKeys("");
  waitForKey(null);
  keysCard.showModal();
  keysCard.scrollTop = 0;
}
const sayOfKeys = (words) => { part("keys-said").textContent = words; };

function waitForKey(what) {
  changing = what;
  showKeys();
  if (what) keysCard.querySelector('[data-change="' + what + '"]').focus();
}

function usualKeys() {
  keys = USUAL_KEYS;
  studio.remember("keys", "{}");
  waitForKey(null);
  sayOfKeys("The usual keys are back.");
}

/* A sentence when `key` cannot be the one for `what`. */
function refusal(what, key) {
  if (RESERVED.includes(key)) return key + " keeps the meaning it has everywhere. Choose another key.";
  const taken = meaning(key);
  if (taken && taken !== what) return sign(key) + " already means: " + MEANS[taken] + ". Choose another key.";
  if (isBetter(what) && !/^([\p{L}\d]|Arrow\w+)$/u.test(key))
    return "Choose a letter, a digit or an arrow: with Shift it means much better.";
  return "";
}

keysCard.addEventListener("keydown", (event) => {
  if (!changing || event.ctrlKey || event.metaKey || event.altKey || MODIFIERS.includes(event.key)) return;
  event.preventDefault();
  event.stopPropagation();
  const what = changing;
  if (event.key === "Escape") {
    waitForKey(null);
    return sayOfKeys("Left as it was.");
  }
  const key = keyOf(event);
  const problem = refusal(what, key);
  if (problem) return sayOfKeys(problem);
  keys = { ...keys, [what]: [key] };
  const own = Object.entries(keys).filter(([name, its]) => its !== USUAL_KEYS[name]);
  studio.remember("keys", JSON.stringify(Object.fromEntries(own.map(([name, its]) => [name, its[0]]))));
  waitForKey(null);
  keysCard.querySelector('[data-change="' + what + '"]').focus();
  sayOfKeys(sign(key) + " now means: " + MEANS[what] + ".");
});
keysCard.addEventListener("cancel", (event) => { if (changing) event.preventDefault(); });

/* --- a key is pressed -------------------------------------------------------------------------- */
function isTyping(target) {
  return Boolean(target.closest?.("input, textarea, select, [contenteditable]:not([contenteditable=false])"));
}
/* Who walks the page by Tab presses its buttons with Space; but the open tab is open already. */
function isPressing(event) {
  return event.key === " " && event.target.matches?.(":is(button, a, summary):focus-visible")
    && event.target.ariaSelected !== "true";
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey) return;
  if (element.offsetParent === null || isTyping(event.target) || isPressing(event)) return;
  if (document.querySelector("dialog[open], [popover]:popover-open")) return;
  if (event.altKey) {
    if (!PANS[event.key] || view.zoom === 1) return;
    panBy(...PANS[event.key].map((step) => step * PAN_STEP));
  } else if (event.key === "Escape") {
    if (!stepBack()) return;
  } else {
    const key = keyOf(event);
    const isPlace = shown() && isGrid(line[0]) && /^[1-9]$/.test(key);
    const what = isPlace ? key : meaning(key);
    if (!what || (event.repeat && !what.startsWith("zoom"))) return;
    if (what in SAID || isPlace) choose(what, event.shiftKey);
    else ACTS[what]();
  }
  event.preventDefault();
  event.stopPropagation(); // the tab bar listens to the arrows too
}, { capture: true, ...life });
