/* What the artist did, on its way to the store: sent one at a time and in order, each under an id of
 * its own, until the store has it. Sending twice counts once. What is unsent outlives the page, which
 * Gradio loads again by itself when a lost connection comes back.
 */
import { _, ngettext, together } from "./messages.js";
import { notify } from "./notices.js";
import { keepUnsent, unsent } from "./storage.js";

const FIRST_WAIT_MS = 300; // before a lost answer is asked for again
const LONGEST_WAIT_MS = 8000;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Outbox {
  entries = []; // { call, payload, about, resolve }, the oldest first
  #element;
  #name;
  #server;
  #settle;
  #isSending = false;

  /* What a page before this one left under `name` is sent at once. `settle(reply, entry)` hears each
   * reply before the next entry is sent. While something is unsent, `element` has data-unsaved and
   * the window asks before it closes, until `signal` aborts. */
  constructor(element, name, server, settle, signal) {
    this.#element = element;
    this.#name = name;
    this.#server = server;
    this.#settle = settle;
    addEventListener("beforeunload", (event) => { if (!this.isEmpty) event.preventDefault(); }, { signal });
    this.entries = unsent(name).map((entry) => ({ ...entry, resolve() {} }));
    this.#changed();
    if (!this.isEmpty) this.#drain();
  }

  get isEmpty() {
    return this.entries.length === 0;
  }

  /* `about` stays on the page, for `settle`. Resolves to the reply. */
  send(call, payload, about = null) {
    return new Promise((resolve) => {
      this.entries.push({ call, payload, about, resolve });
      this.#changed();
      if (!this.#isSending) this.#drain();
    });
  }

  #changed() {
    this.#element.toggleAttribute("data-unsaved", !this.isEmpty);
    keepUnsent(this.#name, this.entries.map(({ call, payload, about }) => ({ call, payload, about })));
  }

  async #drain() {
    this.#isSending = true;
    let wait_ms = FIRST_WAIT_MS;
    while (!this.isEmpty) {
      const [entry] = this.entries;
      const reply = await this.#server[entry.call](entry.payload).catch(() => null);
      if (reply && (reply.ok || reply.final)) {
        this.entries.shift();
        this.#changed();
        if (wait_ms > FIRST_WAIT_MS) notify("", "");
        wait_ms = FIRST_WAIT_MS;
        if (!reply.ok) notify("bad", reply.sentence);
        this.#settle(reply, entry);
        entry.resolve(reply);
      } else {
        const kept = ngettext("One answer is kept here and sent again.",
          "{number} answers are kept here and sent again.", this.entries.length);
        notify("bad", together(reply?.sentence || _("The studio does not answer."), kept));
        await pause(wait_ms);
        wait_ms = Math.min(2 * wait_ms, LONGEST_WAIT_MS);
      }
    }
    this.#isSending = false;
  }
}
