/* Questions and answers, in plain values.
 *
 * A question is a pair, or a grid of more pictures of one prompt. A side is the name of a place: left
 * and right in a pair, the numbers from 1 in a grid.
 *
 * An answer is { choice, much_better, reason, ranking, judge, is_own, marks }: the choice of a grid is
 * "ranked", or what all of its pictures are; ranking holds the ids of its better pictures, the best
 * first; judge is the name of the function that answered, or null for the artist; is_own: nobody
 * clicked, the better one is the artist's own art; marks has by image id where the artist marked what
 * decided.
 */
import { _ } from "../shared/messages.js";

export const NAMES = {
  left: _("Left"), right: _("Right"), tie: _("Just as good"), both_bad: _("Neither"), skip: _("Skipped"),
};
const BETTER = { left: _("Left is better"), right: _("Right is better") };
const MUCH_BETTER = { left: _("Left is much better"), right: _("Right is much better") };
const REASONS = {
  composition: _("composition"), detail: _("detail"), colour: _("colour"), subject: _("subject"),
};
export const ORDINALS = [
  _("1st"), _("2nd"), _("3rd"), _("4th"), _("5th"), _("6th"), _("7th"), _("8th"), _("9th"),
];

export const isChoice = (what) => Object.hasOwn(NAMES, what);
export const isBetter = (choice) => choice === "left" || choice === "right" || choice === "ranked";
export const isGrid = (asked) => asked.pictures.length > 2;

export function sidesOf(asked) {
  return isGrid(asked) ? asked.pictures.map((_, place) => String(place + 1)) : ["left", "right"];
}

export function pictureAt(asked, side) {
  return asked?.pictures[sidesOf(asked).indexOf(side)];
}

export function pictureName(side) {
  if (side === "left") return _("The left picture");
  if (side === "right") return _("The right picture");
  return _("Picture {number}", { number: side });
}

/* The same within a sentence. */
export function pictureWithin(side) {
  if (side === "left") return _("the left picture");
  if (side === "right") return _("the right picture");
  return _("picture {number}", { number: side });
}

export function inWords(answer, asked) {
  const words = choiceInWords(answer, asked);
  if (answer.is_own) return _("{words}, for it is your own art", { words });
  return answer.judge ? _("{words}, picked by a judge ({judge})", { words, judge: answer.judge }) : words;
}

function choiceInWords({ choice, much_better, reason, ranking, marks }, asked) {
  if (!isBetter(choice)) return NAMES[choice];
  const words = choice === "ranked" ? rankingInWords(ranking, asked)
    : much_better ? MUCH_BETTER[choice] : BETTER[choice];
  const said = hasMarks({ marks }) ? _("{words}, with marks", { words }) : words;
  return reason ? _("{words}: {reason}", { words: said, reason: REASONS[reason] || reason }) : said;
}

function rankingInWords(ranking, asked) {
  const places = ranking.map((id) => 1 + asked.pictures.findIndex((one) => one.image_id === id));
  return places.length === 1 ? _("Picture {number} is the best", { number: places[0] })
    : _("In order: {places}", { places: places.join(", ") });
}

export function isSame(answer, other) {
  return Object.keys(answer).every((name) => JSON.stringify(answer[name]) === JSON.stringify(other?.[name]));
}

export function hasMarks({ marks }) {
  return Object.keys(marks || {}).length > 0;
}

/* Of how many pairs an answer says which picture is better. */
export function decided(asked, { ranking }) {
  const last = asked.pictures.length - 1;
  return ranking.reduce((sum, _, place) => sum + last - place, 0);
}
