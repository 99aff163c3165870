/* Picking between two pictures, without ever waiting for the server.
 *
 * `line` holds the pairs to come, the first one on the screen, the next ones decoded. A pick swaps
 * the pictures at once and goes into the outbox, which sends one thing at a time, in order, under
 * an id of its own, until the store has it: sending twice counts once.
 *
 * An answer is { choice, much_better, reason }. prefer_view.js zooms and flips, prefer_strip.js
 * shows what was picked, prefer_keys.js knows the keys.
 */
const DECODED_AHEAD = 4;
const FIRST_WAIT_MS = 300; // before a lost answer is asked for again
const part = (name) => element.querySelector('[data-part="' + name + '"]');
const every = (selector) => element.querySelectorAll(selector);
const act = (name) => element.querySelector('[data-act="' + name + '"]');
const pairBox = part("pair");
const frames = {
  left: element.querySelector('[data-choice="left"] .frame'),
  right: element.querySelector('[data-choice="right"] .frame'),
};
const SAID = { left: "Left", right: "Right", tie: "Just as good", both_bad: "Neither", skip: "Skipped" };
const isBetter = (choice) => choice === "left" || choice === "right";

studio.preferLife?.abort(); // the page may build this component again
studio.preferLife = new AbortController();
const life = { signal: studio.preferLife.signal };

let state = props.value || {};
let line = [];
let answered = new Map(); // pair id -> answer, of this page's life
let behind = []; // pairs answered here, for undo
let outbox = [];
let sending = false;
let onScreen = null;
let reason = null; // said before the choice it belongs to
let hidesPrompt = studio.recall("prompt") === "hidden";

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
const shown = () => (line[0] && onScreen === line[0].id ? line[0] : null);

function refresh() {
  const next = line[0];
  if (isReady(next)) {
    if (onScreen !== next.id) {
      for (const side of ["left", "right"]) frames[side].replaceChildren(pictures.get(next[side]).img);
      pairBox.style.setProperty("--ratio", next.width_px / next.height_px);
      onScreen = next.id;
      reason = answered.get(next.id)?.reason || null;
      showSide("left");
    }
  } else if (!next) onScreen = null;
  const pair = shown();
  pairBox.hidden = !pair;
  part("empty").hidden = Boolean(pair);
  if (!pair) explain(next);
  const before = pair && answered.get(pair.id);
  for (const button of every("[data-choice]")) {
    button.disabled = !pair;
    const was = before?.choice === button.dataset.choice;
    button.classList.toggle("was", was && (!("much" in button.dataset) || before.much_better));
  }
  for (const button of every("[data-reason], .star, [data-act=note], .looking button")) button.disabled = !pair;
  for (const button of every("[data-reason]")) button.ariaPressed = String(button.dataset.act === reason);
  for (const side of ["left", "right"]) act("star_" + side).ariaPressed = String(Boolean(pair?.[side + "_favourite"]));
  part("note-act").textContent = pair?.note ? "Note •" : "Note";
  act("note").title = pair?.note || "";
  part("reopened").hidden = !pair?.reopened;
  showPrompt();
  paintView();
  count();
}

function showPrompt() {
  const pair = shown();
  part("prompt").textContent = pair && !hidesPrompt ? pair.prompt : "";
  part("prompt-act").textContent = hidesPrompt ? "Show prompt" : "Hide prompt";
  act("prompt").ariaPressed = String(hidesPrompt);
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
  const unsent = outbox.filter((entry) => entry.call === "pick" && !entry.pair.reopened);
  const counts = state.counts || { total: 0, new: 0 };
  const total = counts.total + unsent.length;
  const learnable = unsent.filter((entry) => !entry.pair.again && isBetter(entry.payload.choice));
  const fresh = counts.new + learnable.length;
  part("total").textContent = total;
  part("noun").textContent = total === 1 ? "pick" : "picks";
  const left = Math.max(0, state.round_every - fresh);
  let words = state.round || "";
  if (!words && state.live) words = left ? left + " to the next round" : "The next round begins";
  part("round").textContent = words;
  part("known").textContent = state.known ? (words ? "· " : "") + state.known : "";
  const share = state.round_share ?? (state.live ? Math.min(1, fresh / state.round_every) : 0);
  part("bar").style.inlineSize = 100 * share + "%";
  part("bar").parentElement.classList.toggle("learning", state.round_share != null);
  act("undo").disabled = !total && !behind.length;
}

/* --- the outbox ------------------------------------------------------------------------------- */
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
function send(call, payload, pair = null) {
  return new Promise((resolve) => {
    outbox.push({ call, payload, pair, resolve });
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
addEventListener("beforeunload", (event) => { if (studio.unsaved()) event.preventDefault(); }, life);

/* --- what the server knows --------------------------------------------------------------------- */
function accept(news) {
  if (!news) return;
  if (news.session_id !== state.session_id) {
    line = [];
    behind = [];
    answered = new Map();
    onScreen = null;
    say("");
    emptyStrip();
  }
  // An answer to an earlier pick knows nothing of the later ones, which are still on their way.
  const counts = outbox.length && state.counts ? state.counts : news.counts;
  const gone = new Set(outbox.filter((entry) => entry.call === "pick").map((entry) => entry.payload.pair_id));
  for (const pair of behind) gone.add(pair.id);
  state = { ...news, counts: sending ? news.counts : counts };
  const waiting = (news.pairs || []).filter((pair) => !gone.has(pair.id));
  // The pair one is looking at is not taken away, unless nobody is looking.
  const looking = shown() && element.offsetParent !== null;
  line = looking
    ? [line[0], ...waiting.filter((pair) => pair.id !== line[0].id)]
    : waiting;
  prefetch();
  refresh();
  followStrip();
}

/* --- what the artist does ---------------------------------------------------------------------- */
function choose(choice, much_better = false) {
  const pair = shown();
  if (!pair) return;
  const better = isBetter(choice);
  const answer = { choice, much_better: better && much_better, reason: better ? reason : null };
  const before = answered.get(pair.id);
  if (pair.reopened && Object.keys(answer).every((name) => answer[name] === before[name])) return leave();
  line.shift();
  behind = [...behind.filter((one) => one.id !== pair.id), pair];
  answered.set(pair.id, answer);
  say(inWords(answer) + (pair.reopened ? ". Changed." : "."));
  const pick_id = crypto.randomUUID();
  // What is sent is told whether it was reopened; the pair itself is an ordinary one from now on.
  send("pick", { pick_id, pair_id: pair.id, session_id: state.session_id, ...answer }, { ...pair });
  pair.reopened = false;
  prefetch();
  refresh();
  putOnStrip({ pick_id, pair, answer });
}

function inWords({ choice, much_better, reason }) {
  if (!isBetter(choice)) return SAID[choice];
  return SAID[choice] + (much_better ? " is much better" : " is better") + (reason ? ": " + reason : "");
}

async function undo() {
  if (shown()?.reopened) return leave();
  const here = behind.pop();
  if (here) {
    line = [here, ...line.filter((pair) => pair.id !== here.id)];
    takeOffStrip(here.id);
    prefetch();
    refresh();
  }
  say("Back to the pair before.");
  const answer = await send("undo", { undo_id: crypto.randomUUID(), session_id: state.session_id });
  if (!answer.ok) return;
  if (!answer.pair) return say("There is nothing to undo.");
  const known = answered.get(answer.pair.id) || answer.answer;
  answered.set(answer.pair.id, known);
  if (here?.id !== answer.pair.id) {
    // Picked in another window, or before this page was loaded.
    takeOffStrip(answer.pair.id);
    behind = behind.filter((pair) => pair.id !== answer.pair.id);
    if (!outbox.length) {
      line = [answer.pair, ...line.filter((pair) => pair.id !== answer.pair.id)];
      prefetch();
    }
    if (shown()?.id === answer.pair.id) reason = known.reason;
  }
  refresh();
}

/* A pair that was answered before comes first, until it is answered anew or left. */
function reopen({ pair, answer }) {
  answered.set(pair.id, answer);
  line = [{ ...pair, reopened: true }, ...line.filter((one) => !one.reopened && one.id !== pair.id)];
  prefetch();
  refresh();
  say("Before: " + inWords(answer) + ".");
}

function leave() {
  if (!line[0]?.reopened) return;
  line.shift();
  prefetch();
  refresh();
  say("Left as it was.");
}

function sayWhy(why) {
  if (!shown()) return;
  reason = reason === why ? null : why;
  refresh();
}

/* What is known of a picture or a pair is known of every copy of it on this page. */
function tell(change) {
  for (const pair of [...line, ...behind, ...(strip || []).map((entry) => entry.pair)]) change(pair);
  refresh();
  drawStrip();
}

function star(side) {
  const pair = shown();
  if (!pair) return;
  const image_id = pair[side + "_image_id"];
  const favourite = !pair[side + "_favourite"];
  tell((one) => {
    for (const its of ["left", "right"]) if (one[its + "_image_id"] === image_id) one[its + "_favourite"] = favourite;
  });
  say(favourite ? "The " + side + " picture is a favourite." : "No favourite any more.");
  send("favourite", { image_id, favourite });
}

const noteCard = part("note-card");
let noted = null; // the pair that the card is about
function openNote() {
  noted = shown();
  if (!noted) return;
  part("note-text").value = noted.note;
  noteCard.returnValue = "";
  noteCard.showModal();
}
noteCard.addEventListener("close", () => {
  const note = part("note-text").value.trim();
  if (noteCard.returnValue !== "save" || note === noted.note) return;
  const { id } = noted;
  tell((pair) => { if (pair.id === id) pair.note = note; });
  say("Noted.");
  send("note", { pair_id: id, note });
});
noteCard.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) noteCard.close("save");
});

function say(words) { part("said").textContent = words; }

const ACTS = {
  undo, flip, leave, note: openNote, strip: toggleStrip, favourites: filterStrip, older: () => fetchStrip(true),
  keys: () => openKeys(), usual: () => usualKeys(), "note-leave": () => noteCard.close(),
  zoom_in: () => zoomBy(ZOOM_STEP), zoom_out: () => zoomBy(1 / ZOOM_STEP), fit, apart,
  star_left: () => star("left"), star_right: () => star("right"),
  composition: () => sayWhy("composition"), detail: () => sayWhy("detail"),
  colour: () => sayWhy("colour"), subject: () => sayWhy("subject"),
  prompt: () => {
    hidesPrompt = !hidesPrompt;
    studio.remember("prompt", hidesPrompt ? "hidden" : "shown");
    showPrompt();
  },
};

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  // The hand goes back to the keys: Space must not press again what the pointer pressed.
  if (event.detail && !button.closest("dialog")) button.blur();
  if (button.dataset.choice) choose(button.dataset.choice, "much" in button.dataset || event.shiftKey);
  else ACTS[button.dataset.act]?.();
});

watch("value", () => accept(props.value));
queueMicrotask(() => { // the other files have been read by then
  showKeys();
  showStrip();
  accept(state);
});
