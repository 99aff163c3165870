/* As many places as there are pictures; and putting the pictures of a grid in order.
 *
 * The best one is enough: its number, or a click, answers. Or they are put in order, by numbers and
 * clicks or by dragging them: `order` holds the sides, the best first, and those that it does not
 * name are worse than those it does.
 */
const ORDINALS = ["1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th"];
const COLUMNS = { 4: 2, 6: 3, 9: 3 };
const onePlace = pairBox.querySelector(".side").cloneNode(true);
let order = [];
let ordering = false;
let carried = null; // the side under the pointer, on its way
let target = null; // where it would come to lie

const isGrid = (asked) => asked.pictures.length > 2;
const sidesOf = (asked) =>
  isGrid(asked) ? asked.pictures.map((_, place) => String(place + 1)) : ["left", "right"];
const sideOf = (inside) => inside.closest("[data-side]").dataset.side;
const boxOf = (side) => pairBox.querySelector('[data-side="' + side + '"]');
const pictureAt = (asked, side) => asked?.pictures[sidesOf(asked).indexOf(side)];
const pictureName = (side) => (isNaN(side) ? "The " + side + " picture" : "Picture " + side);

/* Of how many pairs an answer says which picture is better. */
function decided(asked, { ranking }) {
  const last = asked.pictures.length - 1;
  return ranking.reduce((sum, _, place) => sum + last - place, 0);
}

/* --- the places -------------------------------------------------------------------------------- */
function lay(asked) {
  const sides = sidesOf(asked);
  const there = [...pairBox.children].map((box) => box.dataset.side);
  if (String(there) !== String(sides)) pairBox.replaceChildren(...sides.map((side) => boxOf(side) || place(side)));
  pairBox.classList.toggle("grid", isGrid(asked));
  pairBox.style.setProperty("--count", sides.length);
  pairBox.style.setProperty("--columns", COLUMNS[sides.length] || sides.length);
  sides.forEach((side, n) =>
    boxOf(side).querySelector(".frame").replaceChildren(pictures.get(asked.pictures[n].url).img));
  const ranking = isGrid(asked) ? answered.get(asked.id)?.ranking || [] : [];
  order = sides.filter((side) => ranking.includes(pictureAt(asked, side).image_id));
  const rankOf = (side) => ranking.indexOf(pictureAt(asked, side).image_id);
  order.sort((one, other) => rankOf(one) - rankOf(other));
  ordering = order.length > 1;
  nameChoices();
}

function place(side) {
  const box = onePlace.cloneNode(true);
  box.dataset.side = side;
  const choice = box.querySelector(".choice");
  const star = box.querySelector(".star");
  choice.dataset.choice = side;
  star.dataset.act = "star_" + side;
  star.ariaLabel = "Favourite: " + pictureName(side).toLowerCase();
  box.querySelector(".flip-label").textContent = isNaN(side) ? side : "Picture " + side;
  const much = box.querySelector(".much");
  const key = choice.querySelector("kbd");
  if (isNaN(side)) {
    choice.dataset.says = "The " + side + " picture is better";
    box.querySelector(".flip-label").textContent = side[0].toUpperCase() + side.slice(1);
    much.dataset.choice = key.dataset.key = side;
    much.ariaLabel = "The " + side + " picture is much better (Shift and its key)";
    key.textContent = sign(keys[side][0]);
  } else {
    much.remove();
    delete key.dataset.key;
    key.textContent = side;
  }
  return box;
}

/* What a press on a picture means just now, for those who hear it. */
function nameChoices() {
  for (const button of every(".choice")) {
    const side = sideOf(button);
    const means = ordering ? "the next in order" : "the best one";
    const at = order.indexOf(side);
    const words = isNaN(side) ? button.dataset.says : pictureName(side) + (at < 0 ? " is " + means : ", now " + ORDINALS[at]);
    const its = isNaN(side) ? keys[side].map(sign) : [side];
    button.ariaLabel = words + " (key " + its.join(" or ") + ")";
  }
}

function paintOrder() {
  const asked = shown();
  const grid = Boolean(asked && isGrid(asked));
  act("order").hidden = !grid;
  act("order").ariaPressed = String(grid && ordering);
  act("order").classList.toggle("primary", grid && ordering && order.length > 0);
  part("order-act").textContent = grid && ordering && order.length ? "Keep this order" : "Order";
  pairBox.classList.toggle("ordering", grid && ordering);
  for (const box of pairBox.querySelectorAll(".side")) {
    const at = grid ? order.indexOf(box.dataset.side) : -1;
    box.querySelector(".rank").textContent = at < 0 ? "" : ORDINALS[at];
  }
  nameChoices();
}

/* --- the order --------------------------------------------------------------------------------- */
function chooseOfGrid(side) {
  const asked = shown();
  if (!pictureAt(asked, side)) return;
  if (ordering) put(asked, side);
  else rank(asked, [side]);
}

function rank(asked, sides) {
  give(asked, { choice: "ranked", much_better: false, reason, ranking: sides.map((side) => pictureAt(asked, side).image_id) });
}

function put(asked, side) {
  order = order.includes(side) ? order.filter((one) => one !== side) : [...order, side];
  const left = sidesOf(asked).filter((one) => !order.includes(one));
  if (left.length === 1 && order.at(-1) === side) order.push(left[0]); // there is no other place for it
  paintOrder();
  const at = order.indexOf(side);
  say(at < 0 ? pictureName(side) + " is taken out of the order." : pictureName(side) + " is " + ORDINALS[at] + ".");
}

/* Begins to put in order; the second time keeps the order there is. */
function toggleOrder() {
  const asked = shown();
  if (!asked || !isGrid(asked)) return;
  if (ordering && order.length) return rank(asked, order);
  ordering = !ordering;
  paintOrder();
  say(ordering ? "Best first: press their numbers, or the pictures. Then keep the order." : "");
}

function leaveOrder() {
  ordering = false;
  order = [];
  sidesOf(shown()).forEach((side) => pairBox.append(boxOf(side)));
  paintOrder();
  say("No order.");
}

function rankingInWords(ranking, asked) {
  const places = ranking.map((id) => 1 + asked.pictures.findIndex((one) => one.image_id === id));
  return places.length === 1 ? "Picture " + places[0] + " is the best" : "In order: " + places.join(", ");
}

/* --- dragging ---------------------------------------------------------------------------------- */
document.addEventListener("pointermove", (event) => {
  const asked = shown();
  if (!asked || !isGrid(asked) || fingers.size !== 1 || !fingers.has(event.pointerId) || view.zoom > 1 || view.flip) return drop(false);
  const x = event.clientX - finger.x, y = event.clientY - finger.y;
  if (!carried && Math.hypot(x, y) < DRAG_PX) return;
  carried ||= finger.target.closest(".side");
  dragged = true; // its end is no choice
  carried.classList.add("carried");
  carried.style.translate = x + "px " + y + "px";
  const under = document.elementFromPoint(event.clientX, event.clientY)?.closest(".prefer-pair > .side");
  target?.classList.remove("target");
  target = under && under !== carried ? under : null;
  target?.classList.add("target");
}, life);
document.addEventListener("pointerup", () => drop(true), life);
document.addEventListener("pointercancel", () => drop(false), life);

function drop(there) {
  if (!carried) return;
  const [box, onto] = [carried, target];
  carried = target = null;
  box.classList.remove("carried");
  onto?.classList.remove("target");
  box.style.translate = "";
  if (!there || !onto) return;
  const boxes = [...pairBox.children];
  if (boxes.indexOf(box) < boxes.indexOf(onto)) onto.after(box);
  else onto.before(box);
  ordering = true;
  order = [...pairBox.children].map((one) => one.dataset.side);
  paintOrder();
  say(pictureName(box.dataset.side) + " is " + ORDINALS[order.indexOf(box.dataset.side)] + ". Then keep the order.");
}
