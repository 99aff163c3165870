/* The filmstrip: what was picked, the newest first. Any pick opens again and can be changed.
 *
 * It follows what this page does by itself, and is fetched anew when the store knows of more.
 */
let strip = null; // entries { pick_id, asked, answer }; null until they are fetched
let stripTotal = 0; // how many picks there were when it was fetched, and since
let stripMore = false; // older ones are in the store
let stripOpen = studio.recall("strip") === "open";
let onlyFavourites = false;
let fetching = 0;

function toggleStrip() {
  stripOpen = !stripOpen;
  studio.remember("strip", stripOpen ? "open" : "closed");
  showStrip();
  paintView(); // the pictures have another size
}

function filterStrip() {
  onlyFavourites = !onlyFavourites;
  emptyStrip();
}

function showStrip() {
  part("strip").hidden = !stripOpen;
  act("strip").ariaExpanded = String(stripOpen);
  act("favourites").ariaPressed = String(onlyFavourites);
  if (stripOpen && state.session_id) fetchStrip();
}

function emptyStrip() {
  strip = null;
  stripMore = false;
  drawStrip();
  showStrip();
}

async function fetchStrip(older = false) {
  const mine = ++fetching;
  const before = older && strip?.length ? strip.at(-1).pick_id : null;
  let answer = null;
  try {
    answer = await server.picked({ session_id: state.session_id, before, favourites: onlyFavourites });
  } catch {}
  if (mine !== fetching) return; // asked again meanwhile
  if (!answer?.ok) {
    part("strip-said").textContent = answer?.sentence || "The studio does not answer. Close this and open it again.";
    return;
  }
  const known = new Set(before ? strip.map((entry) => entry.asked.id) : []);
  strip = [...(before ? strip : []), ...answer.picks.filter((entry) => !known.has(entry.asked.id))];
  stripMore = answer.more;
  stripTotal = answer.total;
  drawStrip();
}

/* Another window, or an answer that was refused: then the store knows better. */
function followStrip() {
  if (stripOpen && !outbox.length && state.counts && (!strip || state.counts.total !== stripTotal)) fetchStrip();
}

function putOnStrip(entry) {
  if (!strip) return;
  takeOffStrip(entry.asked.id);
  stripTotal += 1;
  strip.unshift(entry);
  if (!onlyFavourites || isFavourite(entry.asked)) part("strip-list").prepend(cell(entry));
  tidyStrip();
}

function takeOffStrip(pair_id) {
  const found = strip?.findIndex((entry) => entry.asked.id === pair_id) ?? -1;
  if (found < 0) return;
  strip.splice(found, 1);
  stripTotal -= 1;
  part("strip-list").querySelector('[data-pair="' + pair_id + '"]')?.remove();
  tidyStrip();
}

const isFavourite = (asked) => asked.pictures.some((one) => one.favourite);

function drawStrip() {
  const visible = (strip || []).filter((entry) => !onlyFavourites || isFavourite(entry.asked));
  part("strip-list").replaceChildren(...visible.map(cell));
  tidyStrip();
}

function tidyStrip() {
  const any = part("strip-list").childElementCount > 0;
  part("strip-list").hidden = !any;
  act("older").hidden = !stripMore;
  const none = onlyFavourites
    ? "No favourites among your picks yet. The star on a picture makes it one."
    : "What you pick appears here, and can be changed.";
  part("strip-said").textContent = strip && !any ? none : "";
}

function cell(entry) {
  const { asked, answer } = entry;
  const item = document.createElement("div");
  item.setAttribute("role", "listitem");
  item.dataset.pair = asked.id;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "strip-pick";
  button.style.setProperty("--ratio", asked.width_px / asked.height_px);
  button.classList.toggle("grid", isGrid(asked));
  button.ariaLabel = inWords(answer, asked) + ". " + asked.prompt + ". Open it again";
  button.title = inWords(answer, asked) + (asked.note ? "\n" + asked.note : "");
  for (const one of asked.pictures) {
    const half = document.createElement("span");
    const img = document.createElement("img");
    img.src = one.thumbnail;
    img.alt = "";
    img.loading = "lazy";
    img.decoding = "async";
    half.append(img);
    const isBest = answer.ranking[0] === one.image_id;
    half.classList.toggle("chosen", isBest);
    half.classList.toggle("much", isBest && answer.much_better);
    half.classList.toggle("other", isBetter(answer.choice) && !isBest);
    half.classList.toggle("favourite", one.favourite);
    button.append(half);
  }
  const mark = document.createElement("i");
  mark.textContent = { tie: "=", both_bad: "×", skip: "…" }[answer.choice] || "";
  if (asked.note) mark.textContent += " •";
  button.append(mark);
  button.addEventListener("click", () => reopen(entry));
  item.append(button);
  return item;
}
