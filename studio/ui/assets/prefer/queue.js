/* What is asked and what was answered, without ever waiting for the server.
 *
 * `line` holds the questions to come, the first one on the screen. An answer takes the first one
 * away at once and goes into the outbox. What the server knows arrives later, by `accept`.
 */
import { _ } from "../shared/messages.js";
import { notify } from "../shared/notices.js";
import { Outbox } from "../shared/outbox.js";
import { onReturn, tellOthers } from "../shared/windows.js";
import { inWords, isSame } from "./questions.js";

const DECODED_AHEAD = 4;
const DECODED_BEHIND = 2; // for undo

export class Queue {
  state = {}; // as the server told it last
  line = [];
  behind = []; // what was answered here, for undo
  answered = new Map(); // id -> answer, of this page's life
  onScreen = null; // the id of the question that is shown
  #called = null; // the id of the question that the artist called back, whose pictures may be on their way
  #server;
  #outbox;
  #pictures;
  #strip;
  #page;
  #isFollowing = false;

  /* page: { refresh(), say(words), isSeen() }. The strip is told of what is picked and taken back. */
  constructor(element, server, pictures, page, signal) {
    this.#server = server;
    this.#pictures = pictures;
    this.#page = page;
    this.#outbox = new Outbox(element, "prefer", server, (...news) => this.#settle(...news), signal);
    onReturn(() => this.#follow(), signal);
  }

  set strip(strip) {
    this.#strip = strip;
  }

  get shown() {
    const [first] = this.line;
    return first && this.onScreen === first.id ? first : null;
  }

  get isAllSent() {
    return this.#outbox.isEmpty;
  }

  get unsentPicks() {
    return this.#outbox.entries.filter((entry) => entry.call === "pick");
  }

  /* --- what the server knows --------------------------------------------------------------------- */
  accept(news) {
    if (!news) return;
    const isOther = news.session_id !== this.state.session_id;
    this.state = news;
    if (isOther) this.#beginAnew();
    const gone = new Set([
      ...this.unsentPicks.map((entry) => entry.payload.pair_id),
      ...this.behind.map((asked) => asked.id),
    ]);
    // Until the store knows how many pictures are wanted at a time, it tells of those before.
    const isOutdated = this.#outbox.entries.some((entry) => entry.call === "size");
    const waiting = isOutdated ? [] : (news.waiting || []).filter((asked) => !gone.has(asked.id));
    // The question on the screen stays there, unless another tab of the page is open; and so does one
    // that was called back: news from before that may come late, and do not know of it.
    const [first] = this.line;
    const stays = first && [this.onScreen, this.#called].includes(first.id);
    const kept = stays && this.#page.isSeen() ? first : null;
    this.line = kept ? [kept, ...waiting.filter((asked) => asked.id !== kept.id)] : waiting;
    this.#refresh();
    this.#strip.follow();
    if (kept && !waiting.some((asked) => asked.id === kept.id)) this.#follow();
  }

  #beginAnew() {
    this.line = [];
    this.behind = [];
    this.answered = new Map();
    this.onScreen = null;
    this.#page.say("");
    this.#strip.empty();
  }

  #refresh() {
    this.#pictures.keep([...this.behind.slice(-DECODED_BEHIND), ...this.line.slice(0, DECODED_AHEAD + 1)]);
    this.#page.refresh();
  }

  /* The question on the screen may have been answered in another window: then the next one follows. */
  async #follow() {
    const asked = this.shown;
    if (!asked || asked.reopened || !this.isAllSent || this.#isFollowing) return;
    this.#isFollowing = true;
    const { session_id } = this.state;
    const reply = await this.#server.refresh({ session_id, pair_id: asked.id }).catch(() => null);
    if (reply?.ok && this.isAllSent && this.shown === asked && !asked.reopened) {
      if (reply.is_answered) {
        this.line.shift();
        this.#page.say(reply.judge ? _("A judge picked that one.") : _("That one was answered in another window."));
      }
      const waiting = new Set(reply.state.waiting.map((one) => one.id)); // taken back in another window
      this.behind = this.behind.filter((one) => !waiting.has(one.id));
      this.accept(reply.state);
    }
    this.#isFollowing = false;
  }

  /* --- what the artist does ---------------------------------------------------------------------- */
  give(asked, answer) {
    const before = asked.reopened ? this.answered.get(asked.id) : null;
    if (before && isSame(answer, before)) return this.leave();
    this.line.shift();
    this.behind = [...this.behind.filter((one) => one.id !== asked.id), asked];
    this.answered.set(asked.id, answer);
    const words = inWords(answer, asked);
    this.#page.say(asked.reopened ? _("{words}. Changed.", { words }) : _("{words}.", { words }));
    const pick_id = crypto.randomUUID();
    const payload = { pick_id, pair_id: asked.id, session_id: this.state.session_id, ...answer };
    this.#outbox.send("pick", payload, { asked: { ...asked }, before });
    asked.reopened = false; // from now on the question is an ordinary one
    this.#refresh();
    this.#strip.put({ pick_id, asked, answer });
  }

  async undo() {
    if (this.shown?.reopened) return this.leave();
    const here = this.behind.pop();
    if (here) {
      this.#strip.takeOff(here.id);
      this.#call(here);
    }
    this.#page.say(_("Back to the one before."));
    const reply = await this.send("undo", { undo_id: crypto.randomUUID(), session_id: this.state.session_id });
    if (!reply.ok) return;
    if (!reply.asked) return this.#page.say(_("There is nothing to undo."));
    const known = this.answered.get(reply.asked.id) || reply.answer;
    this.answered.set(reply.asked.id, known);
    if (here?.id !== reply.asked.id) this.#takeBack(reply.asked);
    this.#page.refresh();
  }

  /* It was picked in another window, or before this page was loaded. */
  #takeBack(asked) {
    this.#strip.takeOff(asked.id);
    this.behind = this.behind.filter((one) => one.id !== asked.id);
    if (this.isAllSent) this.#call(asked);
    if (this.shown?.id === asked.id) this.#page.layAgain();
  }

  #call(asked) {
    this.#called = asked.id;
    this.line = [asked, ...this.line.filter((one) => one.id !== asked.id)];
    this.#refresh();
  }

  /* What was answered before comes first, until it is answered anew or left. */
  reopen({ asked, answer }) {
    this.answered.set(asked.id, answer);
    this.line = this.line.filter((one) => !one.reopened);
    this.#call({ ...asked, reopened: true });
    this.#page.say(_("Before: {words}.", { words: inWords(answer, asked) }));
  }

  leave() {
    if (!this.line[0]?.reopened) return;
    this.line.shift();
    this.#refresh();
    this.#page.say(_("Left as it was."));
  }

  /* So many pictures at a time from now on; what waits is of the number before. */
  setSize(pictures) {
    if (pictures === this.state.pictures) return;
    this.state = { ...this.state, pictures };
    this.line = this.line.filter((asked) => asked.reopened);
    this.#page.refresh();
    this.#page.say(_("{number} pictures at a time.", { number: pictures }));
    this.send("size", { session_id: this.state.session_id, pictures });
  }

  setFavourite(image_id, favourite) {
    this.#change((asked) => {
      for (const its of asked.pictures) if (its.image_id === image_id) its.favourite = favourite;
    });
    this.send("favourite", { image_id, favourite });
  }

  setNote(pair_id, note) {
    this.#change((asked) => { if (asked.id === pair_id) asked.note = note; });
    this.#page.say(_("Noted."));
    this.send("note", { pair_id, note });
  }

  /* What is known of a picture or a question is known of every copy of it on this page. */
  #change(change) {
    for (const asked of [...this.line, ...this.behind, ...this.#strip.questions]) change(asked);
    this.#page.refresh();
    this.#strip.draw();
  }

  /* --- sending ----------------------------------------------------------------------------------- */
  send(call, payload) {
    return this.#outbox.send(call, payload);
  }

  #settle(reply, { call, payload, about }) {
    if (!reply.ok) return;
    if (reply.replaced && !isSame(reply.replaced, about.before)) tellOfReplacing(reply.replaced, payload, about.asked);
    if (call === "pick" || call === "undo") tellOthers();
    this.accept(reply.state);
  }
}

function tellOfReplacing(replaced, answer, asked) {
  const answers = { before: inWords(replaced, asked), now: inWords(answer, asked) };
  notify("good", replaced.judge
    ? _("This had an answer: “{before}”. It is replaced by “{now}”. Undo takes that back.", answers)
    : _("You had answered this in another window: “{before}”. It is replaced by “{now}”. Undo takes " +
      "that back.", answers));
}
