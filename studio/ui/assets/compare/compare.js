/* Base beside tuned: side by side, behind a slider, in one place, as a difference, or all at once. */
import { node, partsOf } from "../shared/dom.js";
import { isCovered, meaningOf } from "../shared/keys.js";
import { _ } from "../shared/messages.js";
import { recall, remember } from "../shared/storage.js";

const VIEWS = ["side", "slider", "flip", "difference", "grid"];
const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };

let life = null; // the page may build this component again: what listens to the document ends then

export function begin({ element, props, watch }) {
  const part = partsOf(element);
  const all = (selector) => [...element.querySelectorAll(selector)];
  let value = props.value || { cells: [] };
  let view = VIEWS.find((name) => name === recall("compareView")) || "side";
  let at = 0;
  let flipped = 0; // which of the sides is shown in one place

  const sides = () => (value.other ? ["base", "tuned", "other"] : ["base", "tuned"]);
  const nameOf = (side) => ({ base: _("Base"), tuned: value.tuned, other: value.other })[side];

  const inWords = ({ prompt, seed }) => _("{prompt} · seed {seed}", { prompt, seed });

  function paint() {
    const { cells, job, empty } = value;
    const open = job && (job.state === "queued" || job.state === "running");
    part("bar").hidden = !cells.length;
    for (const name of VIEWS) part(name).hidden = !cells.length || view !== name;
    part("space").hidden = view !== "flip";
    part("save").hidden = view === "grid";
    element.querySelector('[data-act="amplify"]').hidden = view !== "difference";
    part("film").hidden = cells.length < 2 || view === "grid";
    part("progress").hidden = !open;
    if (open) {
      const share = Math.round(100 * job.progress);
      part("progress-text").textContent = job.message;
      part("progress-bar").style.inlineSize = share + "%";
    }
    part("problem").hidden = !(job && job.state === "failed");
    part("problem").textContent = job ? job.message : "";
    part("empty").hidden = cells.length > 0 || open || (job && job.state === "failed");
    if (empty) {
      part("empty-title").textContent = empty.title;
      part("empty-text").textContent = empty.text;
      part("empty-action").hidden = !empty.action;
      part("empty-action").textContent = empty.action || "";
      part("empty-action").dataset.openTab = empty.tab || "";
    }
    for (const button of all("[data-view]")) {
      const on = button.dataset.view === view;
      button.setAttribute("aria-checked", on);
      button.tabIndex = on ? 0 : -1;
    }
    if (cells.length) show();
  }

  function show() {
    const place = Math.min(at, value.cells.length - 1); // a new comparison may not be there yet
    const cell = value.cells[place];
    part("prompt").textContent = inWords(cell);
    part("tuned-name").textContent = value.tuned;
    part("other-name").textContent = value.other;
    part("other").hidden = element.querySelector('[data-save="other"]').hidden = !value.other;
    part("fit").hidden = !value.fit || view === "grid";
    part("fit").textContent = value.fit;
    for (const side of sides())
      for (const img of all('[data-img="' + side + '"]')) {
        if (img.getAttribute("src") !== cell[side]) img.src = cell[side];
        img.alt = nameOf(side) + ": " + cell.prompt;
      }
    for (const link of all("[data-save]"))
      if (cell[link.dataset.save]) link.href = cell[link.dataset.save] + "/download";
    showFlipped();
    all(".film-cell").forEach((thumb, i) => thumb.setAttribute("aria-selected", i === place));
  }

  function showFlipped() {
    flipped %= sides().length;
    const side = sides()[flipped];
    for (const img of part("flip").querySelectorAll("img")) img.hidden = img.dataset.img !== side;
    part("flip-name").className = "tag " + side;
    part("flip-name").textContent = nameOf(side);
  }
  function flip() {
    flipped += 1;
    showFlipped();
  }

  function build() {
    const cells = value.cells;
    part("film").replaceChildren(...cells.map((cell, i) => {
      const thumb = node("button", {
        type: "button", class: "film-cell", role: "option", "data-cell": i,
        "aria-label": inWords(cell),
      });
      thumb.append(node("img", { src: cell.base, alt: "" }), node("img", { src: cell.tuned, alt: "" }));
      return thumb;
    }));
    part("grid").replaceChildren(...cells.map((cell, i) => {
      const two = node("button", {
        type: "button", class: "grid-cell", "data-cell": i, "data-open": "side",
        "aria-label": _("Open {name}", { name: inWords(cell) }),
      });
      two.append(
        ...sides().map((side) =>
          node("img", { src: cell[side], alt: nameOf(side) + ": " + cell.prompt, loading: "lazy" })),
        node("span", {}, inWords(cell)),
      );
      return two;
    }));
  }

  function setView(name) {
    view = name;
    remember("compareView", name);
    paint();
  }

  element.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.act === "flip") flip();
    if (button.dataset.act === "amplify") {
      const on = part("difference").toggleAttribute("data-amplified");
      button.setAttribute("aria-pressed", on);
    }
    if (button.dataset.cell) at = Number(button.dataset.cell);
    if (button.dataset.view || button.dataset.open) setView(button.dataset.view || button.dataset.open);
    else if (button.dataset.cell) show();
  });
  element.addEventListener("keydown", (event) => {
    const step = meaningOf(event, STEPS);
    if (!step) return;
    const group = event.target.closest('[role="radiogroup"], [role="listbox"]');
    if (!group) return;
    const buttons = [...group.querySelectorAll("button")];
    const next = buttons[(buttons.indexOf(event.target) + step + buttons.length) % buttons.length];
    next.focus();
    next.click();
    event.preventDefault();
  });
  /* Space flips in one place, whatever has the focus, unless that is a thing which Space works on. */
  life?.abort();
  life = new AbortController();
  document.addEventListener("keydown", (event) => {
    if (!meaningOf(event, { Space: true }) || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (element.offsetParent === null || !value.cells.length) return;
    if (isCovered()) return;
    const held = event.target.closest?.("input, textarea, select, summary, a, button, [role=slider]");
    if (held && !(held.dataset.view === view || held.dataset.act === "flip" || held.type === "range")) return;
    if (held?.dataset.view === "grid") return;
    if (view !== "flip") setView("flip");
    flip();
    event.preventDefault();
  }, { capture: true, signal: life.signal });
  element.addEventListener("input", (event) => {
    if (event.target.type === "range")
      divide(event.target);
  });

  function divide(range) {
    range.parentElement.style.setProperty("--at", range.value + "%");
    range.setAttribute("aria-valuetext", _("{percent}% base", { percent: range.value }));
  }

  function accept() {
    const before = JSON.stringify([value.cells, value.tuned, value.other]);
    value = props.value || { cells: [] };
    if (before !== JSON.stringify([value.cells, value.tuned, value.other])) build();
    paint();
  }
  watch("value", accept);
  build();
  paint();
}
