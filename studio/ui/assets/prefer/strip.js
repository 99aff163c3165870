/* The strip of picks, the newest first. Any pick opens again and can be changed.
 *
 * It follows what this page does by itself, and is fetched anew when the store knows of more.
 */
import { node, partsOf } from "../shared/dom.js";
import { _ } from "../shared/messages.js";
import { recall, remember } from "../shared/storage.js";
import { hasMarks, inWords, isBetter, isGrid } from "./questions.js";

const MARKS = { tie: "=", both_bad: "×", skip: "…" };

export class Strip {
  #part;
  #server;
  #queue;
  #entries = null; // { pick_id, asked, answer }; null until they are fetched
  #total = 0; // how many picks there were when it was fetched, and since
  #hasMore = false; // older ones are in the store
  #isOpen = recall("strip") === "open";
  #onlyFavourites = false;
  #fetches = 0;

  constructor(element, server, queue) {
    this.#part = partsOf(element);
    this.#server = server;
    this.#queue = queue;
  }

  get isOpen() {
    return this.#isOpen;
  }

  get onlyFavourites() {
    return this.#onlyFavourites;
  }

  get hasMore() {
    return this.#hasMore;
  }

  get questions() {
    return (this.#entries || []).map((entry) => entry.asked);
  }

  toggle() {
    this.#isOpen = !this.#isOpen;
    remember("strip", this.#isOpen ? "open" : "closed");
    this.#show();
  }

  toggleFavourites() {
    this.#onlyFavourites = !this.#onlyFavourites;
    this.empty();
  }

  empty() {
    this.#entries = null;
    this.#hasMore = false;
    this.draw();
    this.#show();
  }

  #show() {
    this.#part("strip").hidden = !this.#isOpen;
    if (this.#isOpen && this.#queue.state.session_id) this.fetch();
  }

  /* --- what is in it ------------------------------------------------------------------------------- */
  async fetch(isOlder = false) {
    const mine = ++this.#fetches;
    const before = (isOlder && this.#entries?.at(-1)?.pick_id) || null;
    const { session_id } = this.#queue.state;
    const asks = { session_id, before, favourites: this.#onlyFavourites };
    const reply = await this.#server.picked(asks).catch(() => null);
    if (mine !== this.#fetches) return; // asked again meanwhile
    if (!reply?.ok) {
      this.#say(reply?.sentence || _("The studio does not answer. Close this and open it again."));
      return;
    }
    const kept = before ? this.#entries : [];
    const known = new Set(kept.map((entry) => entry.asked.id));
    this.#entries = [...kept, ...reply.picks.filter((entry) => !known.has(entry.asked.id))];
    this.#hasMore = reply.more;
    this.#total = reply.total;
    this.draw();
  }

  /* Another window, or an answer that was refused: then the store knows better. */
  follow() {
    const { counts } = this.#queue.state;
    if (!this.#isOpen || !this.#queue.isAllSent || !counts) return;
    if (!this.#entries || counts.total !== this.#total) this.fetch();
  }

  put(entry) {
    if (!this.#entries) return;
    this.takeOff(entry.asked.id);
    this.#total += 1;
    this.#entries.unshift(entry);
    if (this.#isVisible(entry)) this.#part("strip-list").prepend(this.#cell(entry));
    this.#tidy();
  }

  takeOff(id) {
    const found = this.#entries?.findIndex((entry) => entry.asked.id === id) ?? -1;
    if (found < 0) return;
    this.#entries.splice(found, 1);
    this.#total -= 1;
    this.#part("strip-list").querySelector('[data-pair="' + id + '"]')?.remove();
    this.#tidy();
  }

  #isVisible({ asked }) {
    return !this.#onlyFavourites || asked.pictures.some((one) => one.favourite);
  }

  /* --- drawing it ---------------------------------------------------------------------------------- */
  draw() {
    const visible = (this.#entries || []).filter((entry) => this.#isVisible(entry));
    this.#part("strip-list").replaceChildren(...visible.map((entry) => this.#cell(entry)));
    this.#tidy();
  }

  #tidy() {
    const isEmpty = !this.#part("strip-list").childElementCount;
    this.#part("strip-list").hidden = isEmpty;
    this.#part("older").hidden = !this.#hasMore;
    const none = this.#onlyFavourites
      ? _("No favourites among your picks yet. The star on a picture makes it one.")
      : _("What you pick appears here, and can be changed.");
    this.#say(this.#entries && isEmpty ? none : "");
  }

  #say(words) {
    this.#part("strip-said").textContent = words;
  }

  #cell(entry) {
    const { asked, answer } = entry;
    const words = inWords(answer, asked);
    const button = node("button", {
      type: "button", class: "strip-pick" + (isGrid(asked) ? " grid" : ""),
      style: "--ratio: " + asked.width_px / asked.height_px,
      "aria-label": _("{words}. {prompt}. Open it again", { words, prompt: asked.prompt }),
      title: words + (asked.note ? "\n" + asked.note : ""),
    }, ...asked.pictures.map((one) => thumbnail(one, answer)));
    const by = answer.is_own ? _("yours") : answer.judge && _("by a judge");
    const marks = [MARKS[answer.choice], by, hasMarks(answer) && _("marked"), asked.note && "•"];
    button.append(node("i", {}, marks.filter(Boolean).join(" ")));
    button.addEventListener("click", () => this.#queue.reopen(entry));
    return node("div", { role: "listitem", "data-pair": asked.id }, button);
  }
}

function thumbnail(picture, answer) {
  const isBest = answer.ranking[0] === picture.image_id;
  const kinds = {
    chosen: isBest,
    much: isBest && answer.much_better,
    other: isBetter(answer.choice) && !isBest,
    favourite: picture.favourite,
  };
  const names = Object.keys(kinds).filter((name) => kinds[name]);
  return node("span", { class: names.join(" ") },
    node("img", { src: picture.thumbnail, alt: "", loading: "lazy", decoding: "async" }));
}
