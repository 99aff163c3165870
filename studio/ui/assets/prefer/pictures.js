/* The pictures of the next questions, fetched and decoded before they are shown. */
import { pictureName, sidesOf } from "./questions.js";

export class Pictures {
  #known = new Map(); // url -> { img, isReady }
  #changed;

  /* `changed()` is called whenever one is ready. */
  constructor(changed) {
    this.#changed = changed;
  }

  /* Keeps the pictures of these questions, and no others. */
  keep(questions) {
    const wanted = new Set(questions.flatMap((asked) => asked.pictures.map((one) => one.url)));
    for (const url of this.#known.keys()) if (!wanted.has(url)) this.#known.delete(url);
    for (const asked of questions)
      sidesOf(asked).forEach((side, place) =>
        this.#fetch(asked.pictures[place].url, pictureName(side) + ": " + asked.prompt));
  }

  isReady(asked) {
    return Boolean(asked?.pictures.every((one) => this.#known.get(one.url)?.isReady));
  }

  img(url) {
    return this.#known.get(url).img;
  }

  #fetch(url, alt) {
    if (this.#known.has(url)) return;
    const img = new Image();
    img.alt = alt;
    img.draggable = false;
    img.src = url;
    const made = { img, isReady: false };
    const done = () => { made.isReady = true; this.#changed(); };
    img.decode().then(done, done); // a missing picture must not hold up the others
    img.addEventListener("error", () => img.classList.add("missing"));
    this.#known.set(url, made);
  }
}
