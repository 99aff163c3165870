/* The tour: a card beside a part of the page, and a frame around that part. The page stays usable. */
import { partsOf } from "../shared/dom.js";
import { isCovered, meaningOf } from "../shared/keys.js";
import { _ } from "../shared/messages.js";
import { openTab, tabButton } from "../shared/page.js";

const KEYS = { ArrowLeft: "back", ArrowRight: "next", Escape: "leave" };
const FOLLOW_MS = 200; // parts of the page move as values arrive, and nothing tells of that
const GAP_PX = 12;
const EDGE_PX = 4; // from what it points at to the outside of its frame
const FIELDS = "input, textarea, select, [contenteditable]";

let begun = () => {};

export function startTour() {
  begun();
}

/* The box around the first of these selectors that matches something visible. */
function boxOf(selectors) {
  for (const selector of selectors) {
    const boxes = [...document.querySelectorAll(selector)]
      .filter((one) => one.offsetParent !== null)
      .map((one) => one.getBoundingClientRect());
    if (boxes.length) return around(boxes);
  }
  return null;
}

function around(boxes) {
  const left = Math.min(...boxes.map((box) => box.left));
  const top = Math.min(...boxes.map((box) => box.top));
  const right = Math.max(...boxes.map((box) => box.right));
  const bottom = Math.max(...boxes.map((box) => box.bottom));
  return new DOMRect(left, top, right - left, bottom - top);
}

/* Where a card of some size has room beside a box: below, right, above, left, or else in the corner. */
function placeOf(box, width, height, top) {
  const within = (at, size, low, high) => Math.max(low, Math.min(at, high - size));
  const x = within(box.left + (box.width - width) / 2, width, GAP_PX, innerWidth - GAP_PX);
  const y = within(box.top + (box.height - height) / 2, height, top, innerHeight - GAP_PX);
  const places = [
    [x, box.bottom + GAP_PX],
    [box.right + GAP_PX, y],
    [x, box.top - GAP_PX - height],
    [box.left - GAP_PX - width, y],
  ];
  const fits = ([left, above]) => left >= GAP_PX && left + width <= innerWidth - GAP_PX
    && above >= top && above + height <= innerHeight - GAP_PX;
  return places.find(fits) || [innerWidth - width - GAP_PX, innerHeight - height - GAP_PX];
}

export function begin({ element, props, server, watch }) {
  const part = partsOf(element);
  const card = part("card"), frame = part("frame");
  let steps = [], at = -1, following = 0, life = null, before = null;

  const isOpen = () => at >= 0;
  const step = () => steps[at];
  const box = () => boxOf([...step().points_at, "#tab-" + step().tab + "-button"]);

  /* The lower edge of the bar and of the tabs, which stick to the top. */
  const head = () => Math.max(0, tabButton(step().tab).closest(".tab-wrapper").getBoundingClientRect().bottom);

  function place() {
    const there = box();
    if (!there) return;
    const { width, height } = card.getBoundingClientRect();
    const [left, top] = placeOf(there, width, height, head() + GAP_PX);
    Object.assign(card.style, { left: left + "px", top: top + "px" });
    const from = Math.max(0, there.left - EDGE_PX), to = Math.min(innerWidth, there.right + EDGE_PX);
    Object.assign(frame.style, {
      left: from + "px", width: to - from + "px",
      top: there.top - EDGE_PX + "px", height: there.height + 2 * EDGE_PX + "px",
    });
  }

  /* What sticks to the top is always in sight; all else may have to be scrolled to. */
  function bringIntoSight() {
    const there = box();
    if (!there || there.top < head() / 2) return;
    const top = head() + GAP_PX;
    if (there.top < top || there.bottom + card.offsetHeight + 2 * GAP_PX > innerHeight)
      scrollBy({ top: there.top - top, behavior: "instant" });
  }

  function show(number) {
    at = number;
    openTab(step().tab);
    part("count").textContent = _("{number} of {total}", { number: at + 1, total: steps.length });
    part("title").textContent = step().title;
    part("text").textContent = step().text;
    const next = element.querySelector('[data-act="next"]');
    next.textContent = at + 1 < steps.length ? _("Next") : _("Start picking");
    element.querySelector('[data-act="back"]').disabled = at === 0;
    card.hidden = frame.hidden = false;
    requestAnimationFrame(() => { if (isOpen()) { bringIntoSight(); place(); } });
  }

  function start() {
    if (isOpen() || !steps.length) return;
    before = document.activeElement;
    life = new AbortController();
    const { signal } = life;
    // Before the keys of the tabs, which listen on the document.
    addEventListener("keydown", onKey, { capture: true, signal });
    addEventListener("resize", place, { signal });
    addEventListener("scroll", place, { signal, passive: true });
    following = setInterval(place, FOLLOW_MS);
    show(0);
    if (!before?.matches?.(FIELDS)) element.querySelector('[data-act="next"]').focus({ preventScroll: true });
  }

  function end() {
    const hadFocus = card.contains(document.activeElement);
    const tab = step().tab;
    life.abort();
    clearInterval(following);
    at = -1;
    card.hidden = frame.hidden = true;
    if (hadFocus) (before?.offsetParent && before !== document.body ? before : tabButton(tab)).focus();
    server.seen({}).catch(() => {}); // if it is lost, the tour comes once more
  }

  const acts = {
    back: () => { if (at > 0) show(at - 1); },
    next: () => {
      if (at + 1 < steps.length) return show(at + 1);
      openTab("prefer");
      end();
    },
    leave: end,
  };

  /* Esc leaves it from anywhere, unless something covers the page; the arrows are for the card alone. */
  function onKey(event) {
    const what = meaningOf(event, KEYS);
    if (!what || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || isCovered()) return;
    if (what !== "leave" && !card.contains(event.target)) return;
    event.preventDefault();
    event.stopPropagation();
    acts[what]();
  }

  element.addEventListener("click", (event) => {
    const button = event.target.closest("[data-act]");
    if (button && isOpen()) acts[button.dataset.act]();
  });
  begun = start;

  let isKnown = false;
  function accept() {
    if (!props.value) return;
    steps = props.value.steps;
    if (!isKnown && props.value.starts) start();
    isKnown = true;
  }
  watch("value", accept);
  accept();
}
