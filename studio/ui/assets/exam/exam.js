/* The blind exam: which of two pictures is better? Which is which is told after the last answer.
 *
 * An answer is shown at once and goes into the outbox, which sends it until the store has it.
 */
import { ask } from "../shared/ask.js";
import { partsOf } from "../shared/dom.js";
import { areKeysTaken, meaningOf } from "../shared/keys.js";
import { _, together } from "../shared/messages.js";
import { notify } from "../shared/notices.js";
import { Outbox } from "../shared/outbox.js";
import { onReturn, tellOthers } from "../shared/windows.js";
import { paintResults } from "./results.js";

const NAMES = { left: _("Left"), right: _("Right"), tie: _("No difference") };
const SIDES = { left: _("The left picture"), right: _("The right picture") };
const KEYS = {
  ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", ArrowDown: "tie", 3: "tie", z: "back",
};

let life = null; // the page may build this component again: what listens to the document ends then

export function begin({ element, props, server, watch }) {
  life?.abort();
  life = new AbortController();
  const { signal } = life;
  const part = partsOf(element);
  const act = (name) => element.querySelector('[data-act="' + name + '"]');
  const say = (words) => { part("said").textContent = words; };
  const given = new Map(); // pair id -> answer, for when it is taken back
  const settled = new Set(); // pairs answered here: a state that is older still has them as open
  const pictures = new Map(); // url -> { img, isReady }
  const outbox = new Outbox(element, "exam", server, settle, signal);
  let state = {};
  let onScreen = null;
  let painted = "";

  /* --- taking it --------------------------------------------------------------------------------- */
  function picture(url) {
    if (!pictures.has(url)) {
      const img = new Image();
      img.draggable = false;
      img.src = url;
      const made = { img, isReady: false };
      const done = () => { made.isReady = true; paint(); };
      img.decode().then(done, done); // a missing picture must not hold up the exam
      pictures.set(url, made);
    }
    return pictures.get(url);
  }

  /* Pairs to come: those the server knows of, less those that were answered here. */
  function pairsToCome() {
    return (state.exam?.pairs || []).filter((pair) => !settled.has(pair.id));
  }

  function paint() {
    const { exam } = state;
    element.querySelector(".exam").toggleAttribute("data-taking", Boolean(exam));
    part("taking").hidden = !exam;
    part("results").hidden = Boolean(exam);
    if (exam) paintExam(exam);
    else onScreen = null;
  }

  function paintExam(exam) {
    const pairs = pairsToCome();
    const [pair] = pairs;
    for (const url of pictures.keys())
      if (!pairs.some((one) => one.left === url || one.right === url)) pictures.delete(url);
    for (const one of pairs) for (const url of [one.left, one.right]) picture(url);
    if (!pair) onScreen = null;
    else if (onScreen !== pair.id && picture(pair.left).isReady && picture(pair.right).isReady) lay(exam, pair);
    const isShown = Boolean(pair && onScreen === pair.id);
    const done = paintCount(exam, pair);
    part("pair").hidden = !isShown;
    part("prompt").textContent = isShown ? pair.prompt : "";
    for (const button of element.querySelectorAll("[data-answer]")) {
      button.disabled = !isShown;
      button.classList.toggle("was", isShown && given.get(pair.id) === button.dataset.answer);
    }
    act("back").disabled = done === 0;
    part("waiting").hidden = isShown;
    if (!isShown) explain(exam, pair, done);
  }

  function paintCount(exam, pair) {
    const unsent = outbox.entries.reduce((sum, entry) => sum + (entry.call === "answer" ? 1 : -1), 0);
    const done = Math.max(0, Math.min(exam.total, exam.answered + unsent));
    part("count").textContent = _("{number} of {total}", { number: pair ? done + 1 : done, total: exam.total });
    part("bar").style.inlineSize = (100 * done) / exam.total + "%";
    return done;
  }

  function lay(exam, pair) {
    const [left, right] = element.querySelectorAll(".exam-choice .frame");
    for (const [frame, side] of [[left, "left"], [right, "right"]]) {
      const { img } = picture(pair[side]);
      img.alt = SIDES[side] + ": " + pair.prompt;
      frame.replaceChildren(img);
    }
    part("pair").style.setProperty("--ratio", exam.width_px / exam.height_px);
    onScreen = pair.id;
  }

  /* Why there is no pair on the screen. */
  function explain(exam, pair, done) {
    const isBroken = !pair && exam.problem && done < exam.total;
    part("waiting").classList.toggle("working", !isBroken);
    act("draw").hidden = !isBroken;
    part("waiting-title").textContent = isBroken ? _("The pictures are not all drawn")
      : done === exam.total ? _("Counting") : pair ? _("One moment") : _("The next pair is being drawn");
    part("waiting-text").textContent = isBroken ? together(exam.problem, _("Your answers are kept."))
      : !pair && done < exam.total ? exam.drawing : "";
  }

  /* --- what the artist does ---------------------------------------------------------------------- */
  function answer(choice) {
    const [pair] = pairsToCome();
    if (!pair || onScreen !== pair.id) return;
    given.set(pair.id, choice);
    settled.add(pair.id);
    say(NAMES[choice] + ".");
    send("answer", { answer_id: crypto.randomUUID(), pair_id: pair.id, choice });
  }

  function back() {
    if (!state.exam || act("back").disabled) return;
    say(_("Back to the pair before."));
    send("take_back", { undo_id: crypto.randomUUID(), exam_id: state.exam.id });
  }

  async function leave() {
    const exam_id = state.exam.id;
    const text = _("Its answers are kept and not counted: to stop when the result pleases would make it a better one.");
    if (await ask({ title: _("Leave this exam?"), text, ok: _("Leave it"), danger: true })) send("leave", { exam_id });
  }

  function send(call, payload) {
    outbox.send(call, payload);
    paint();
  }

  function settle(reply, { call, payload }) {
    if (!reply.ok) {
      settled.delete(payload.pair_id);
      return paint();
    }
    if (call === "take_back") for (const pair of reply.state.exam?.pairs || []) settled.delete(pair.id);
    if (reply.replaced)
      notify("good", _("You had answered this in another window: “{before}”. It is replaced by “{now}”. Back takes " +
        "that back.", { before: NAMES[reply.replaced], now: NAMES[payload.choice] }));
    tellOthers();
    accept(reply.state);
  }

  /* --- what the server knows --------------------------------------------------------------------- */
  function accept(news) {
    if (!news) return;
    state = news;
    const results = JSON.stringify([state.result, state.rows, state.empty]);
    if (results !== painted) paintResults(element, state);
    painted = results;
    paint();
  }

  /* A pair that was answered in another window makes room for the next one. */
  async function follow() {
    if (!state.exam || !outbox.isEmpty) return;
    const reply = await server.refresh({}).catch(() => null);
    if (reply?.ok && outbox.isEmpty) accept(reply.state);
  }

  /* --- listening --------------------------------------------------------------------------------- */
  const acts = { back, leave, draw: () => send("draw", { exam_id: state.exam.id }) };
  element.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.answer) answer(button.dataset.answer);
    acts[button.dataset.act]?.();
  }, { signal });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (!state.exam || element.offsetParent === null || areKeysTaken(event)) return;
    const what = meaningOf(event, KEYS);
    if (!what) return;
    if (what === "back") back();
    else answer(what);
    event.preventDefault();
    event.stopPropagation(); // the tab bar listens to the arrows too
  }, { capture: true, signal });
  onReturn(follow, signal);
  watch("value", () => accept(props.value));
  accept(props.value || {});
}
