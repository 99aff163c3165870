/* The pictures of a filter, fetched page by page as they are asked for; a few pages are kept. */
import { _ } from "../shared/messages.js";
import { notify } from "../shared/notices.js";

const KEPT = 16; // pages

export class Pages {
  total = 0;
  #server;
  #changed;
  #asked = {}; // what every request has: session_id, filter
  #size = 1; // of a page
  #starts = [];
  #pages = new Map(); // number -> promise of its pictures
  #found = new Map(); // number -> pictures
  #turn = 0; // a reply to an earlier question is thrown away

  /* `changed()` when more pictures are known. */
  constructor(server, changed) {
    this.#server = server;
    this.#changed = changed;
  }

  /* Ask for other pictures. Resolves to the reply, or to null when it failed or was overtaken. */
  async open(asked) {
    const turn = ++this.#turn;
    const reply = await call(this.#server.index, asked);
    if (!reply || turn !== this.#turn) return null;
    this.#asked = asked;
    this.#size = reply.page;
    this.#starts = reply.starts;
    this.total = reply.total;
    this.#pages.clear();
    this.#found.clear();
    return reply;
  }

  /* The picture at a place; undefined if it is not known yet, or was deleted in another window. */
  at(place) {
    return this.#found.get(Math.floor(place / this.#size))?.[place % this.#size];
  }

  /* The same when it has been fetched. */
  async fetched(place) {
    await this.#page(Math.floor(place / this.#size));
    return this.at(place);
  }

  /* Fetch what is missing between two places. */
  need(first, last) {
    const until = Math.floor(last / this.#size);
    for (let number = Math.floor(first / this.#size); number <= until; number++) this.#page(number);
  }

  #page(number) {
    if (number < 0 || number >= this.#starts.length) return null;
    if (!this.#pages.has(number)) {
      this.#pages.set(number, this.#fetch(number, this.#turn));
      for (const old of [...this.#pages.keys()].slice(0, -KEPT)) {
        this.#pages.delete(old);
        this.#found.delete(old);
      }
    }
    return this.#pages.get(number);
  }

  async #fetch(number, turn) {
    const start = this.#starts[number];
    const before = this.#starts[number + 1] || 0;
    const reply = await call(this.#server.pictures, { ...this.#asked, start, before });
    if (turn !== this.#turn) return;
    if (!reply) return this.#pages.delete(number); // scrolling asks again
    if (this.#pages.has(number)) this.#found.set(number, reply.pictures);
    this.#changed();
  }
}

/* The reply of a server function, or null after a notice. */
export async function call(asked, payload) {
  const reply = await asked(payload).catch(() => null);
  if (reply?.ok) return reply;
  notify("bad", reply?.sentence || _("The studio does not answer. Try again in a moment."));
  return null;
}
