/* Looking closely: the pictures side by side or in one place, zoomed and moved in step.
 *
 * The view belongs to no picture, and stays when the next ones come. x and y say how far the
 * middle of a picture lies from the middle of its frame, in frames.
 */
const ZOOM_STEP = 1.5;
const MOST_ZOOM = 16;
const PAN_STEP = 0.15;
const DRAG_PX = 6; // less than that is a click
const LARGE_PX = 3; // a picture's pixel that covers so many of the screen's is shown as it is
const view = { zoom: 1, x: 0, y: 0, flip: null }; // flip: the side that is shown alone

function paintView() {
  pairBox.classList.toggle("zoomed", view.zoom > 1);
  pairBox.style.setProperty("--zoom", view.zoom);
  pairBox.style.setProperty("--x", 100 * view.x + "%");
  pairBox.style.setProperty("--y", 100 * view.y + "%");
  pairBox.classList.toggle("flipping", Boolean(view.flip));
  for (const box of pairBox.children) box.classList.toggle("behind", Boolean(view.flip) && box.dataset.side !== view.flip);
  act("apart").hidden = !view.flip;
  part("zoom").textContent = (view.zoom < 10 ? Math.round(10 * view.zoom) / 10 : Math.round(view.zoom)) + "×";
  let large = false;
  if (view.zoom > 1 && shown()) {
    const covered = (boxOf(view.flip || sidesOf(line[0])[0]).offsetWidth / line[0].width_px) * view.zoom;
    large = covered * devicePixelRatio >= LARGE_PX;
  }
  pairBox.classList.toggle("pixels", large);
}

function moveTo(zoom, x, y) {
  view.zoom = Math.min(MOST_ZOOM, Math.max(1, zoom));
  const most = (view.zoom - 1) / 2; // no further than to the picture's edge
  view.x = Math.min(most, Math.max(-most, x));
  view.y = Math.min(most, Math.max(-most, y));
  paintView();
}

/* (x, y) of the frame stays where it is; it is given from the middle, in frames. */
function zoomBy(factor, x = 0, y = 0) {
  const zoom = Math.min(MOST_ZOOM, Math.max(1, view.zoom * factor));
  const grown = zoom / view.zoom;
  moveTo(zoom, x - (x - view.x) * grown, y - (y - view.y) * grown);
}
function panBy(x, y) { moveTo(view.zoom, view.x + x, view.y + y); }
function fit() { moveTo(1, 0, 0); }

/* --- all pictures in one place ----------------------------------------------------------------- */
function flip() {
  if (!shown()) return;
  const sides = sidesOf(line[0]);
  view.flip = sides[(sides.indexOf(view.flip) + 1) % sides.length];
  paintView();
  say("Showing " + pictureName(view.flip).toLowerCase() + ".");
}
function apart() {
  view.flip = null;
  paintView();
  say("Side by side.");
}
function showSide(side) { if (view.flip) view.flip = side; }

/* One step back to the plain view; false when there is none. */
function stepBack() {
  if (shown()?.reopened) leave();
  else if (view.flip) apart();
  else if (view.zoom > 1) fit();
  else if (shown() && ordering) leaveOrder();
  else return false;
  return true;
}

/* --- wheel, drag and pinch --------------------------------------------------------------------- */
function placeIn(target, clientX, clientY) {
  const box = target.closest(".choice").getBoundingClientRect();
  return [(clientX - box.x) / box.width - 0.5, (clientY - box.y) / box.height - 0.5];
}
pairBox.addEventListener("wheel", (event) => {
  if (!event.target.closest(".choice")) return;
  event.preventDefault();
  const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 33 : 1;
  const speed = event.ctrlKey ? 0.01 : 0.002; // a pinch on a touchpad comes as a small wheel
  zoomBy(Math.exp(-event.deltaY * lines * speed), ...placeIn(event.target, event.clientX, event.clientY));
}, { passive: false });

const fingers = new Map(); // pointer id -> where it is
let finger = null; // the first one: what it began on, and where
let dragged = false;
pairBox.addEventListener("pointerdown", (event) => {
  if (event.button || !event.target.closest(".choice")) return;
  if (!fingers.size) {
    finger = { target: event.target, x: event.clientX, y: event.clientY };
    dragged = false;
  }
  fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
});
document.addEventListener("pointermove", (event) => {
  const from = fingers.get(event.pointerId);
  if (!from) return;
  const to = { x: event.clientX, y: event.clientY };
  const box = finger.target.closest(".choice").getBoundingClientRect();
  if (fingers.size === 1) {
    dragged ||= view.zoom > 1 && Math.hypot(to.x - finger.x, to.y - finger.y) >= DRAG_PX;
    if (!dragged) return;
    panBy((to.x - from.x) / box.width, (to.y - from.y) / box.height);
  } else {
    dragged = true;
    const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    const apart_px = (place) => Math.max(1, Math.hypot(place.x - other.x, place.y - other.y));
    panBy((to.x - from.x) / 2 / box.width, (to.y - from.y) / 2 / box.height);
    zoomBy(apart_px(to) / apart_px(from),
      ...placeIn(finger.target, (to.x + other.x) / 2, (to.y + other.y) / 2));
  }
  fingers.set(event.pointerId, to);
}, life);
for (const name of ["pointerup", "pointercancel"])
  document.addEventListener(name, (event) => fingers.delete(event.pointerId), life);
pairBox.addEventListener("click", (event) => {
  if (dragged && event.detail) event.stopPropagation(); // the end of a drag is no choice
  dragged = false;
}, { capture: true });
addEventListener("resize", paintView, life);
