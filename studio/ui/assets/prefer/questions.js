/* Questions and answers, in plain values.
 *
 * A question is a pair, or a grid of more pictures of one prompt. A side is the name of a place: left
 * and right in a pair, the numbers from 1 in a grid.
 *
 * An answer is { choice, much_better, reason, ranking, judge, by, marks }: the choice of a grid is
 * "ranked", or what all of its pictures are; ranking holds the ids of its better pictures, the best
 * first; judge is the name of the function that answered, or null for the artist; by says in words who
 * answered then; marks has by image id where the artist marked what decided.
 */
const NAMES = { left: "Left", right: "Right", tie: "Just as good", both_bad: "Neither", skip: "Skipped" };
export const ORDINALS = ["1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th"];

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
  return isNaN(side) ? "The " + side + " picture" : "Picture " + side;
}

export function inWords(answer, asked) {
  return choiceInWords(answer, asked) + (answer.by ? ", " + answer.by : "");
}

function choiceInWords({ choice, much_better, reason, ranking, marks }, asked) {
  if (!isBetter(choice)) return NAMES[choice];
  const words = choice === "ranked" ? rankingInWords(ranking, asked)
    : NAMES[choice] + (much_better ? " is much better" : " is better");
  return words + (hasMarks({ marks }) ? ", with marks" : "") + (reason ? ": " + reason : "");
}

function rankingInWords(ranking, asked) {
  const places = ranking.map((id) => 1 + asked.pictures.findIndex((one) => one.image_id === id));
  return places.length === 1 ? "Picture " + places[0] + " is the best" : "In order: " + places.join(", ");
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
