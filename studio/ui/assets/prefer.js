/* Picking between pictures of one prompt, without ever waiting for the server.
 *
 * What is asked at once is a pair, or a grid of more. `line` holds what is to come, the first one on
 * the screen, the next ones decoded. A pick swaps the pictures at once and goes into the outbox,
 * which sends one thing at a time, in order, under an id of its own, until the store has it:
 * sending twice counts once.
 *
 * An answer is { choice, much_better, reason, ranking }: the choice of a grid is "ranked", or what
 * all of its pictures are; ranking holds the ids of its better pictures, the best first.
 * prefer_grid.js puts pictures in order, prefer_view.js zooms and flips, prefer_strip.js shows what
 * was picked, prefer_keys.js knows the keys.
 */
const DECODED_AHEAD = 4;
const FIRST_WAIT_MS = 300; // before a lost answer is asked for again
const part = (name) => element.querySelector('[data-part="' + name + '"]');
const every = (selector) => element.querySelectorAll(selector);
const act = (name) => element.querySelector('[data-act="' + name + '"]');
const pairBox = part("pair");
const SAID = { left: "Left", right: "Right", tie: "Just as good", both_bad: "Neither", skip: "Skipped" };
const isBetter = (choice) => choice === "left" || choice === "right" || choice === "ranked";

studio.preferLife?.abort(); // the page may build this component again
studio.preferLife = new AbortController();
const life = { signal: studio.preferLife.signal };

let state = props.value || {};
let line = [];
let answered = new Map(); // id -> answer, of this page's life
let behind = []; // what was answered here, for undo
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
  const wanted = new Set(near.flatMap((asked) => asked.pictures.map((one) => one.url)));
  for (const url of pictures.keys()) if (!wanted.has(url)) pictures.delete(url);
  for (const asked of near)
    sidesOf(asked).forEach((side, place) => picture(asked.pictures[place].url, pictureName(side) + ": " + asked.prompt));
}
const isReady = (asked) => asked?.pictures.every((one) => pictures.get(one.url)?.ready);

/* --- what is on the screen -------------------------------------------------------------------- */
const shown = () => (line[0] && onScreen === line[0].id ? line[0] : null);

function refresh() {
  const next = line[0];
  if (isReady(next)) {
    if (onScreen !== next.id) {
      lay(next);
      pairBox.style.setProperty("--ratio", next.width_px / next.height_px);
      onScreen = next.id;
      reason = answered.get(next.id)?.reason || null;
      showSide(sidesOf(next)[0]);
    }
  } else if (!next) onScreen = null;
  const asked = shown();
  pairBox.hidden = !asked;
  part("empty").hidden = Boolean(asked);
  if (!asked) explain(next);
  const before = asked && answered.get(asked.id);
  for (const button of every("[data-choice]")) {
    button.disabled = !asked;
    const was = before?.choice === button.dataset.choice;
    button.classList.toggle("was", was && (!("much" in button.dataset) || before.much_better));
  }
  for (const button of every("[data-reason], .star, [data-act=note], .looking button:not([data-size])")) button.disabled = !asked;
  for (const button of every("[data-reason]")) button.ariaPressed = String(button.dataset.act === reason);
  for (const star of every(".star")) star.ariaPressed = String(Boolean(pictureAt(asked, sideOf(star))?.favourite));
  for (const button of every("[data-size]")) button.ariaPressed = String(Number(button.dataset.size) === state.pictures);
  part("note-act").textContent = asked?.note ? "Note •" : "Note";
  act("note").title = asked?.note || "";
  part("reopened").hidden = !asked?.reopened;
  showPrompt();
  paintOrder();
  paintView();
  count();
}

function showPrompt() {
  const asked = shown();
  part("prompt").textContent = asked && !hidesPrompt ? asked.prompt : "";
  part("prompt-act").textContent = hidesPrompt ? "Show prompt" : "Hide prompt";
  act("prompt").ariaPressed = String(hidesPrompt);
}

function explain(loading) {
  const empty = loading
    ? { title: "One moment", text: "The next pictures are being fetched.", working: true }
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
  const unsent = outbox.filter((entry) => entry.call === "pick" && !entry.asked.reopened);
  const counts = state.counts || { total: 0, new: 0 };
  const total = counts.total + unsent.length;
  const fresh = unsent.reduce((sum, { asked, payload }) => sum + (asked.again ? 0 : decided(asked, payload)), counts.new);
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
function send(call, payload, asked = null) {
  return new Promise((resolve) => {
    outbox.push({ call, payload, asked, resolve });
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
  for (const asked of behind) gone.add(asked.id);
  state = { ...news, counts: sending ? news.counts : counts };
  // Until the store knows how many pictures are wanted at a time, it tells of those before.
  const isOutdated = outbox.some((entry) => entry.call === "size");
  const waiting = isOutdated ? [] : (news.waiting || []).filter((asked) => !gone.has(asked.id));
  // What one is looking at is not taken away, unless nobody is looking.
  const looking = shown() && element.offsetParent !== null;
  line = looking
    ? [line[0], ...waiting.filter((asked) => asked.id !== line[0].id)]
    : waiting;
  prefetch();
  refresh();
  followStrip();
}

/* --- what the artist does ---------------------------------------------------------------------- */
function choose(choice, much_better = false) {
  const asked = shown();
  if (!asked) return;
  const better = isBetter(choice);
  if (isGrid(asked) && !(choice in SAID && !better)) return chooseOfGrid(choice);
  const ranking = better ? [pictureAt(asked, choice).image_id] : [];
  give(asked, { choice, much_better: better && much_better, reason: better ? reason : null, ranking });
}

function give(asked, answer) {
  const before = answered.get(asked.id);
  if (asked.reopened && Object.keys(answer).every((name) => String(answer[name]) === String(before[name]))) return leave();
  line.shift();
  behind = [...behind.filter((one) => one.id !== asked.id), asked];
  answered.set(asked.id, answer);
  say(inWords(answer, asked) + (asked.reopened ? ". Changed." : "."));
  const pick_id = crypto.randomUUID();
  // What is sent is told whether it was reopened; the question itself is an ordinary one from now on.
  send("pick", { pick_id, pair_id: asked.id, is_grid: isGrid(asked), session_id: state.session_id, ...answer }, { ...asked });
  asked.reopened = false;
  prefetch();
  refresh();
  putOnStrip({ pick_id, asked, answer });
}

function inWords({ choice, much_better, reason, ranking }, asked) {
  if (!isBetter(choice)) return SAID[choice];
  if (choice === "ranked") return rankingInWords(ranking, asked) + (reason ? ": " + reason : "");
  return SAID[choice] + (much_better ? " is much better" : " is better") + (reason ? ": " + reason : "");
}

async function undo() {
  if (shown()?.reopened) return leave();
  const here = behind.pop();
  if (here) {
    line = [here, ...line.filter((asked) => asked.id !== here.id)];
    takeOffStrip(here.id);
    prefetch();
    refresh();
  }
  say("Back to the one before.");
  const answer = await send("undo", { undo_id: crypto.randomUUID(), session_id: state.session_id });
  if (!answer.ok) return;
  if (!answer.asked) return say("There is nothing to undo.");
  const known = answered.get(answer.asked.id) || answer.answer;
  answered.set(answer.asked.id, known);
  if (here?.id !== answer.asked.id) {
    // Picked in another window, or before this page was loaded.
    takeOffStrip(answer.asked.id);
    behind = behind.filter((asked) => asked.id !== answer.asked.id);
    if (!outbox.length) {
      line = [answer.asked, ...line.filter((asked) => asked.id !== answer.asked.id)];
      prefetch();
    }
    if (shown()?.id === answer.asked.id) {
      reason = known.reason;
      lay(shown());
    }
  }
  refresh();
}

/* What was answered before comes first, until it is answered anew or left. */
function reopen({ asked, answer }) {
  answered.set(asked.id, answer);
  line = [{ ...asked, reopened: true }, ...line.filter((one) => !one.reopened && one.id !== asked.id)];
  prefetch();
  refresh();
  say("Before: " + inWords(answer, asked) + ".");
}

function leave() {
  if (!line[0]?.reopened) return;
  line.shift();
  prefetch();
  refresh();
  say("Left as it was.");
}

/* So many pictures at a time from now on; what waits is of the number before. */
function setSize(pictures) {
  if (pictures === state.pictures) return;
  state = { ...state, pictures };
  line = line.filter((asked) => asked.reopened);
  refresh();
  say(pictures + " pictures at a time.");
  send("size", { session_id: state.session_id, pictures });
}

function sayWhy(why) {
  if (!shown()) return;
  reason = reason === why ? null : why;
  refresh();
}

/* What is known of a picture or a pair is known of every copy of it on this page. */
function tell(change) {
  for (const asked of [...line, ...behind, ...(strip || []).map((entry) => entry.asked)]) change(asked);
  refresh();
  drawStrip();
}

function star(side) {
  const asked = shown();
  if (!asked) return;
  const starred = pictureAt(asked, side);
  if (!starred) return;
  const { image_id } = starred;
  const favourite = !starred.favourite;
  tell((one) => {
    for (const its of one.pictures) if (its.image_id === image_id) its.favourite = favourite;
  });
  say(favourite ? pictureName(side) + " is a favourite." : "No favourite any more.");
  send("favourite", { image_id, favourite });
}

const noteCard = part("note-card");
let noted = null; // what the card is about
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
  tell((asked) => { if (asked.id === id) asked.note = note; });
  say("Noted.");
  send("note", { pair_id: id, note });
});
noteCard.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) noteCard.close("save");
});

function say(words) { part("said").textContent = words; }

const ACTS = {
  undo, flip, leave, note: openNote, strip: toggleStrip, favourites: filterStrip, older: () => fetchStrip(true),
  order: toggleOrder, keys: () => openKeys(), usual: () => usualKeys(), "note-leave": () => noteCard.close(),
  zoom_in: () => zoomBy(ZOOM_STEP), zoom_out: () => zoomBy(1 / ZOOM_STEP), fit, apart,
  star_left: () => star("left"), star_right: () => star("right"), // keys; a pointer says which
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
  if (button.dataset.size) setSize(Number(button.dataset.size));
  else if (button.classList.contains("star")) star(sideOf(button));
  else if (button.dataset.choice) choose(button.dataset.choice, "much" in button.dataset || event.shiftKey);
  else ACTS[button.dataset.act]?.();
});

watch("value", () => accept(props.value));
queueMicrotask(() => { // the other files have been read by then
  showKeys();
  showStrip();
  accept(state);
});
