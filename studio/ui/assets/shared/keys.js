/* Which key was pressed, for the shortcuts of all tabs, on keyboards of all languages.
 *
 * A key has the name of what it writes, so that Z is where the keyboard has a Z. But a digit goes by
 * its place, because with Shift, or on a French keyboard, that key writes something else; and a key
 * of letters that writes no Latin letter, on a Greek keyboard say, goes by its place as well.
 */

/* The names of a key, the best first. None while an input method composes a word. */
export function namesOf(event) {
  if (!event.key || event.isComposing || event.keyCode === 229) return [];
  const written = event.key.normalize("NFKC"); // the wide "ｚ" of some input methods is a "z"
  const isCharacter = [...written].length === 1;
  const name = written === " " ? "Space" : isCharacter ? written.toLowerCase() : written;
  const digit = digitOf(event, isCharacter);
  if (digit) return isCharacter ? [digit, name] : [digit];
  const [, place] = /^Key([A-Z])$/.exec(event.code) || [];
  if (!place || (isCharacter && /\p{Script=Latin}/u.test(written))) return [name];
  if (/^(\p{L}|\p{M}|Dead|Unidentified)$/u.test(written)) return [place.toLowerCase()];
  return isCharacter ? [name, place.toLowerCase()] : [name]; // a sign: for itself, where it has a meaning
}

function digitOf({ code, shiftKey }, isCharacter) {
  const [, row, digit] = /^(Digit|Numpad)(\d)$/.exec(code) || [];
  // Without the number lock the keys at the side are arrows; with it, Shift makes arrows of them.
  return row === "Digit" || isCharacter || shiftKey ? digit : undefined;
}

/* What a key means, by a table from names to meanings; undefined when it means nothing. */
export function meaningOf(event, meanings) {
  return meanings[namesOf(event).find((name) => Object.hasOwn(meanings, name))];
}

/* Whether keys belong to something else: to a field one types into, a dialog, an open menu. */
export function areKeysTaken({ target }) {
  const field = "input, textarea, select, [contenteditable]:not([contenteditable=false])";
  return Boolean(target.closest?.(field)) || isCovered();
}

/* Whether a dialog or a menu lies over the page. */
export function isCovered() {
  return Boolean(document.querySelector("dialog[open], [popover]:popover-open"));
}
