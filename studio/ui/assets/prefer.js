/* Picking between two pictures, without ever waiting for the server.
 *
 * `line` holds the pairs to come, the first one on the screen, the next ones decoded. A pick swaps
 * the pictures at once and goes into the outbox, which sends one thing at a time, in order, under
 * an id of its own, until the store has it: sending twice counts once.
 */
const DECODED_AHEAD = 4;
const FIRST_WAIT_MS = 300; // before a lost answer is asked for again
const part = (name) => element.querySelector('[data-part="' + name + '"]');
const pairBox = part("pair");
const keysCard = element.querySelector("dialog");
const frames = {
  left: element.querySelector('[data-choice="left"] .frame'),
  right: element.querySelector('[data-choice="right"] .frame'),
};
const SAID = {
  left: "Left is better.",
  right: "Right is better.",
  tie: "Just as good.",
  both_bad: "Neither.",
  skip: "Skipped.",
};

let state = props.value || {};
let line = [];
let answered = new Map(); // pair id -> choice, of this page's life
let behind = []; // pairs answered here, for undo
let outbox = [];
let sending = false;
let onScreen = null;

/* --- pictures -------------------------------------------------------------------------------- */
const pictures = new Map(); // url -> { img, ready }
function picture(url, alt) {
  if (!pictures.has(url)) {
    const img = new Image();
    img.alt = alt;
    img.draggable = false;
    img.src = url;
    const made = { img, ready: false };
    const done = () => { made.ready = true; refresh(); };
    img.decode().then(done, done); // a missing picture must not hold up the line
    img.addEventListener("error", () => img.classList.add("missing"));
    pictures.set(url, made);
  }
  return pictures.get(url);
}
function prefetch() {
  const near = [...behind.slice(-2), ...line.slice(0, DECODED_AHEAD + 1)];
  const wanted = new Set(near.flatMap((pair) => [pair.left, pair.right]));
  for (const url of pictures.keys()) if (!wanted.has(url)) pictures.delete(url);
  for (const pair of near) for (const side of ["left", "right"]) picture(pair[side], side + " picture: " + pair.prompt);
}
const isReady = (pair) => pair && pictures.get(pair.left)?.ready && pictures.get(pair.right)?.ready;

/* --- what is on the screen -------------------------------------------------------------------- */
function refresh() {
  const pair = line[0];
  if (isReady(pair)) {
    if (onScreen !== pair.id) {
      for (const side of ["left", "right"]) frames[side].replaceChildren(pictures.get(pair[side]).img);
      pairBox.style.setProperty("--ratio", pair.width_px / pair.height_px);
      onScreen = pair.id;
    }
  } else if (!pair) onScreen = null;
  const showing = pair && onScreen === pair.id;
  pairBox.hidden = !showing;
  part("empty").hidden = showing;
  if (!showing) explain(pair);
  part("prompt").textContent = showing ? pair.prompt : "";
  for (const button of element.querySelectorAll("[data-choice]")) {
    button.disabled = !showing;
    const before = showing && answered.get(pair.id) === button.dataset.choice;
    button.classList.toggle("was", Boolean(before));
  }
  count();
}

function explain(loading) {
  const empty = loading
    ? { title: "One moment", text: "The next pair is being fetched.", working: true }
    : state.empty || { title: "One moment", text: "", working: true };
  part("empty").classList.toggle("working", Boolean(empty.working));
  part("empty-title").textContent = empty.title;
  part("empty-text").textContent = empty.text;
  const action = part("empty-action");
  action.hidden = !empty.action;
  action.textContent = empty.action || "";
  action.dataset.openTab = empty.tab || "";
}

function count() {
  const unsent = outbox.filter((entry) => entry.call === "pick");
  const counts = state.counts || { total: 0, new: 0 };
  const total = counts.total + unsent.length;
  const learnable = unsent.filter((entry) => !entry.again && /left|right/.test(entry.payload.choice));
  const fresh = counts.new + learnable.length;
  part("total").textContent = total;
  part("noun").textContent = total === 1 ? "pick" : "picks";
  const left = Math.max(0, state.round_every - fresh);
  let words = state.round || "";
  if (!words && state.live) words = left ? left + " to the next round" : "The next round begins";
  part("round").textContent = words;
  const share = state.round_share ?? (state.live ? Math.min(1, fresh / state.round_every) : 0);
  part("bar").style.inlineSize = 100 * share + "%";
  part("bar").parentElement.classList.toggle("learning", state.round_share != null);
  element.querySelector('[data-act="undo"]').disabled = !total && !behind.length;
}

/* --- the outbox ------------------------------------------------------------------------------- */
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
function send(call, payload, again = false) {
  return new Promise((resolve) => {
    outbox.push({ call, payload, again, resolve });
    if (!sending) drain();
  });
}
async function drain() {
  sending = true;
  let wait_ms = FIRST_WAIT_MS;
  while (outbox.length) {
    const { call, payload, resolve } = outbox[0];
    let answer = null;
    try { answer = await server[call](payload); } catch {}
    if (answer && (answer.ok || answer.final)) {
      outbox.shift();
      if (wait_ms > FIRST_WAIT_MS) studio.notify("", "");
      wait_ms = FIRST_WAIT_MS;
      if (answer.ok) accept(answer.state);
      else studio.notify("bad", answer.sentence);
      resolve(answer);
    } else {
      const waiting = outbox.length === 1 ? "One answer is" : outbox.length + " answers are";
      studio.notify("bad", (answer?.sentence || "The studio does not answer.") + " " + waiting +
        " kept here and sent again.");
      await pause(wait_ms);
      wait_ms = Math.min(2 * wait_ms, 8000);
    }
  }
  sending = false;
}
studio.unsaved = () => outbox.length > 0;
addEventListener("beforeunload", (event) => { if (studio.unsaved()) event.preventDefault(); });

/* --- what the server knows --------------------------------------------------------------------- */
function accept(news) {
  if (!news) return;
  if (news.session_id !== state.session_id) {
    line = [];
    behind = [];
    answered = new Map();
    onScreen = null;
    part("said").textContent = "";
  }
  // An answer to an earlier pick knows nothing of the later ones, which are still on their way.
  const counts = outbox.length && state.counts ? state.counts : news.counts;
  const gone = new Set(outbox.map((entry) => entry.payload.pair_id));
  for (const pair of behind) gone.add(pair.id);
  state = { ...news, counts: sending ? news.counts : counts };
  const waiting = (news.pairs || []).filter((pair) => !gone.has(pair.id));
  // The pair one is looking at is not taken away, unless nobody is looking.
  const looking = line[0] && onScreen === line[0].id && element.offsetParent !== null;
  line = looking
    ? [line[0], ...waiting.filter((pair) => pair.id !== line[0].id)]
    : waiting;
  prefetch();
  refresh();
}

/* --- what the artist does ---------------------------------------------------------------------- */
function choose(choice) {
  const pair = line[0];
  if (!pair || onScreen !== pair.id) return;
  line.shift();
  behind.push(pair);
  answered.set(pair.id, choice);
  say(SAID[choice]);
  const pick = { pick_id: crypto.randomUUID(), pair_id: pair.id, choice, session_id: state.session_id };
  send("pick", pick, pair.again);
  prefetch();
  refresh();
}

async function undo() {
  const here = behind.pop();
  if (here) {
    line = [here, ...line.filter((pair) => pair.id !== here.id)];
    prefetch();
    refresh();
  }
  say("Back to the pair before.");
  const answer = await send("undo", { undo_id: crypto.randomUUID(), session_id: state.session_id });
  if (!answer.ok) return;
  if (!answer.pair) return say("There is nothing to undo.");
  answered.set(answer.pair.id, answered.get(answer.pair.id) || answer.choice);
  if (here?.id !== answer.pair.id && !outbox.length) {
    // Picked in another window, or before this page was loaded.
    behind = behind.filter((pair) => pair.id !== answer.pair.id);
    line = [answer.pair, ...line.filter((pair) => pair.id !== answer.pair.id)];
    prefetch();
  }
  refresh();
}

function say(words) { part("said").textContent = words; }

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.choice) choose(button.dataset.choice);
  else if (button.dataset.act === "undo") undo();
  else if (button.dataset.act === "keys") keysCard.showModal();
});

const KEYS = {
  ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", ArrowDown: "tie", 3: "tie",
  0: "both_bad", s: "skip", S: "skip",
};
function isTyping(target) {
  return Boolean(target.closest?.("input, textarea, select, [contenteditable]:not([contenteditable=false])"));
}
studio.preferLife?.abort(); // the page may build this component again
studio.preferLife = new AbortController();
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (element.offsetParent === null || isTyping(event.target)) return;
  if (document.querySelector("dialog[open], [popover]:popover-open")) return;
  if (KEYS[event.key]) choose(KEYS[event.key]);
  else if (event.key === "z" || event.key === "Z") undo();
  else if (event.key === "?") keysCard.showModal();
  else return;
  event.preventDefault();
  event.stopPropagation(); // the tab bar listens to the arrows too
}, { capture: true, signal: studio.preferLife.signal });

watch("value", () => accept(props.value));
accept(state);
