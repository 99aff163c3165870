/* The blind exam: which of two pictures is better, and which is which only after the last answer.
 *
 * An answer is shown at once and goes into the outbox, which sends one thing at a time under an id
 * of its own until the store has it: sending twice counts once.
 */
const FIRST_WAIT_MS = 300; // before a lost answer is asked for again
const part = (name) => element.querySelector('[data-part="' + name + '"]');
const SAID = { left: "Left.", right: "Right.", tie: "No difference." };

let state = props.value || {};
let outbox = [];
let sending = false;
let onScreen = null;
const given = new Map(); // pair id -> answer, for when it is taken back
const settled = new Set(); // pairs answered here: a look that was older still knows them as open

function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, text] of Object.entries(attributes)) made.setAttribute(name, text);
  made.append(...children);
  return made;
}

/* --- taking it -------------------------------------------------------------------------------- */
const pictures = new Map(); // url -> { img, ready }
function picture(url) {
  if (!pictures.has(url)) {
    const img = new Image();
    img.draggable = false;
    img.src = url;
    const made = { img, ready: false };
    const done = () => { made.ready = true; paint(); };
    img.decode().then(done, done); // a missing picture must not hold up the exam
    pictures.set(url, made);
  }
  return pictures.get(url);
}

/* Pairs to come: those the server knows of, less what was answered here. */
const line = () => (state.exam?.pairs || []).filter((pair) => !settled.has(pair.id));

function paint() {
  const exam = state.exam;
  element.querySelector(".exam").toggleAttribute("data-taking", Boolean(exam));
  part("taking").hidden = !exam;
  part("results").hidden = Boolean(exam);
  if (exam) paintPair(exam);
  else onScreen = null;
}

function paintPair(exam) {
  const pairs = line();
  for (const url of pictures.keys())
    if (!pairs.some((pair) => pair.left === url || pair.right === url)) pictures.delete(url);
  const [pair] = pairs;
  const ready = pair && pairs.map((one) => [picture(one.left), picture(one.right)])[0].every((one) => one.ready);
  const change = outbox.reduce((sum, entry) => sum + (entry.call === "answer" ? 1 : -1), 0);
  const done = Math.max(0, Math.min(exam.total, exam.answered + change));
  part("count").textContent = (pair ? done + 1 : done) + " of " + exam.total;
  part("bar").style.inlineSize = (100 * done) / exam.total + "%";
  if (ready && onScreen !== pair.id) {
    const [left, right] = element.querySelectorAll(".exam-choice .frame");
    for (const [frame, side] of [[left, "left"], [right, "right"]]) {
      const { img } = picture(pair[side]);
      img.alt = side + " picture: " + pair.prompt;
      frame.replaceChildren(img);
    }
    part("pair").style.setProperty("--ratio", exam.width_px / exam.height_px);
    onScreen = pair.id;
  }
  if (!pair) onScreen = null;
  const showing = Boolean(pair && onScreen === pair.id);
  part("pair").hidden = !showing;
  part("prompt").textContent = showing ? pair.prompt : "";
  for (const button of element.querySelectorAll("[data-answer]")) {
    button.disabled = !showing;
    button.classList.toggle("was", showing && given.get(pair.id) === button.dataset.answer);
  }
  element.querySelector('[data-act="back"]').disabled = done === 0;
  part("waiting").hidden = showing;
  if (!showing) explain(exam, pair, done);
}

function explain(exam, pair, done) {
  const broken = !pair && exam.problem && done < exam.total;
  part("waiting").classList.toggle("working", !broken);
  element.querySelector('[data-act="draw"]').hidden = !broken;
  const title = broken ? "The pictures are not all drawn"
    : done === exam.total ? "Counting" : pair ? "One moment" : "The next pair is being drawn";
  part("waiting-title").textContent = title;
  const words = broken ? exam.problem + " Your answers are kept." : !pair && done < exam.total ? exam.drawing : "";
  part("waiting-text").textContent = words;
}

function answer(choice) {
  const [pair] = line();
  if (!pair || onScreen !== pair.id) return;
  given.set(pair.id, choice);
  settled.add(pair.id);
  say(SAID[choice]);
  send("answer", { answer_id: crypto.randomUUID(), pair_id: pair.id, choice });
}
function back() {
  if (!state.exam || element.querySelector('[data-act="back"]').disabled) return;
  say("Back to the pair before.");
  send("take_back", { undo_id: crypto.randomUUID(), exam_id: state.exam.id });
}
async function leave() {
  const exam_id = state.exam.id;
  const text = "Its answers are kept and not counted: to stop when the result pleases would make it a better one.";
  if (await studio.ask({ title: "Leave this exam?", text, ok: "Leave it", danger: true })) send("leave", { exam_id });
}
function say(words) { part("said").textContent = words; }

/* --- the outbox ------------------------------------------------------------------------------- */
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
function send(call, payload) {
  outbox.push({ call, payload });
  paint();
  if (!sending) drain();
}
async function drain() {
  sending = true;
  let wait_ms = FIRST_WAIT_MS;
  while (outbox.length) {
    const { call, payload } = outbox[0];
    let reply = null;
    try { reply = await server[call](payload); } catch {}
    if (reply && (reply.ok || reply.final)) {
      outbox.shift();
      if (wait_ms > FIRST_WAIT_MS) studio.notify("", "");
      wait_ms = FIRST_WAIT_MS;
      if (!reply.ok) settled.delete(payload.pair_id);
      if (call === "take_back" && reply.ok) for (const pair of reply.state.exam?.pairs || []) settled.delete(pair.id);
      if (reply.ok) accept(reply.state);
      else { studio.notify("bad", reply.sentence); paint(); }
    } else {
      studio.notify("bad", (reply?.sentence || "The studio does not answer.") +
        " What you answered is kept here and sent again.");
      await pause(wait_ms);
      wait_ms = Math.min(2 * wait_ms, 8000);
    }
  }
  sending = false;
}
studio.examUnsaved = () => outbox.length > 0;
studio.examLife?.abort(); // the page may build this component again
studio.examLife = new AbortController();
const life = { signal: studio.examLife.signal };
addEventListener("beforeunload", (event) => { if (studio.examUnsaved()) event.preventDefault(); }, life);

/* --- what came out ----------------------------------------------------------------------------- */
function paintResults() {
  const { result, rows, empty } = state;
  part("empty").hidden = Boolean(result);
  part("result").hidden = !result;
  part("empty-title").textContent = empty?.title || "";
  part("empty-text").textContent = empty?.text || "";
  part("empty-action").hidden = !empty?.action;
  part("empty-action").textContent = empty?.action || "";
  part("empty-action").dataset.openTab = empty?.tab || "";
  element.querySelector(".exam-about").hidden = Boolean(empty?.action);
  part("result-what").textContent = result?.what || "";
  // What stands in brackets is not torn apart.
  part("sentence").replaceChildren(...(result?.sentence || "").split(/(\([^)]*\)\.?)/).map((words, n) =>
    n % 2 ? node("span", { class: "whole" }, words) : words));
  part("meaning").textContent = result?.meaning || "";
  part("table").replaceChildren(...(rows?.length ? [table(rows)] : []));
  part("reveal").replaceChildren(...(result ? reveal(result) : []));
}

function table(rows) {
  const head = node("tr", {}, ...["Round", "Strength", "Tuned chosen", ""].map((words) => {
    const cell = node("th", { scope: "col" });
    if (words) cell.textContent = words;
    else cell.append(node("span", { class: "exam-axis", "aria-hidden": "true" }));
    return cell;
  }));
  const axis = head.querySelector(".exam-axis");
  for (const percent of [0, 50, 100]) axis.append(node("i", { style: "inset-inline-start:" + percent + "%" }, percent + "%"));
  const body = rows.map((row) => {
    const plot = node("span", { class: "exam-plot", "aria-hidden": "true" });
    if (row.share != null) {
      plot.append(
        node("i", { class: "range", style: "inset-inline:" + 100 * row.low + "% " + 100 * (1 - row.high) + "%" }),
        node("i", { class: "dot", style: "inset-inline-start:" + 100 * row.share + "%" }),
      );
    }
    const made = node("tr", {},
      node("td", {}, "" + row.round),
      node("td", {}, "" + row.strength),
      node("td", {}, row.counted + (row.ties ? ", " + row.ties + " without a difference" : "")),
      node("td", { class: "exam-plot-cell" }, plot));
    if (row.recommended) {
      made.dataset.recommended = "";
      made.children[1].append(" ", node("span", { class: "badge" }, "Recommended"));
    }
    return made;
  });
  const caption = node("caption", {}, "What the exams found, by strength");
  return node("table", {}, caption, node("thead", {}, head), node("tbody", {}, ...body));
}

function reveal(result) {
  const cells = result.pairs.map((pair) => {
    const sides = ["left", "right"].map((side) => {
      const tuned = pair.tuned === side;
      const name = tuned ? "Tuned" : "Base";
      const chosen = pair.choice === side;
      const figure = node("figure", chosen ? { "data-chosen": "" } : {},
        node("img", { src: pair[side], alt: name + ": " + pair.prompt, loading: "lazy" }),
        node("figcaption", { class: "tag " + name.toLowerCase() }, name + (chosen ? " ✓" : "")));
      return figure;
    });
    const words = pair.prompt + (pair.choice === "tie" ? " · no difference" : "");
    return node("div", { class: "exam-revealed" }, ...sides, node("span", {}, words));
  });
  return [node("h2", { class: "section" }, "Which was which"), node("div", { class: "exam-grid" }, ...cells)];
}

/* --- listening ---------------------------------------------------------------------------------- */
let painted = "";
function accept(news) {
  if (!news) return;
  state = news;
  const results = JSON.stringify([state.result, state.rows, state.empty]);
  if (results !== painted) paintResults();
  painted = results;
  paint();
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.answer) answer(button.dataset.answer);
  const acts = { back, leave, draw: () => send("draw", { exam_id: state.exam.id }) };
  acts[button.dataset.act]?.();
});
const KEYS = { ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", ArrowDown: "tie", 3: "tie" };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (!state.exam || element.offsetParent === null) return;
  if (event.target.closest?.("input, textarea, select, [contenteditable]:not([contenteditable=false])")) return;
  if (document.querySelector("dialog[open], [popover]:popover-open")) return;
  if (KEYS[event.key]) answer(KEYS[event.key]);
  else if (event.key === "z" || event.key === "Z") back();
  else return;
  event.preventDefault();
  event.stopPropagation(); // the tab bar listens to the arrows too
}, { capture: true, ...life });

watch("value", () => accept(props.value));
accept(state);
