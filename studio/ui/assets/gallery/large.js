/* One picture large, or two side by side. */
import { node, partsOf } from "../shared/dom.js";
import { _ } from "../shared/messages.js";
import { VERDICTS } from "./list.js";

export class Large {
  place = -1; // of the one picture; -1: two are compared, or none is open
  picture = null;
  #element;
  #part;
  #dialog;
  #pages;

  constructor(element, pages) {
    this.#element = element;
    this.#part = partsOf(element);
    this.#dialog = element.querySelector("dialog");
    this.#pages = pages;
    this.#dialog.addEventListener("click", (event) => { if (event.target === this.#dialog) this.close(); });
  }

  get isOpen() {
    return this.#dialog.open;
  }

  close() {
    this.#dialog.close();
  }

  say(words) {
    this.#part("large-said").textContent = words;
  }

  /* Show the picture at a place; the next ones are fetched ahead. */
  async show(place) {
    this.place = place;
    const picture = await this.#pages.fetched(place);
    if (this.place !== place) return; // a later key was faster
    if (!picture) return this.isOpen && this.close();
    this.picture = picture;
    this.#paint([picture], _("{number} of {total}", { number: place + 1, total: this.#pages.total }));
    for (const near of [place + 1, place - 1]) {
      const url = this.#pages.at(near)?.url;
      if (url) new Image().src = url;
    }
  }

  compare(two) {
    this.place = -1;
    this.picture = null;
    this.#paint(two, "");
  }

  #paint(pictures, count) {
    const [one] = pictures;
    const isOne = pictures.length === 1;
    this.#part("sides").replaceChildren(...pictures.map((picture) => figure(picture, count)));
    for (const button of this.#dialog.querySelectorAll("[data-large]")) button.hidden = !isOne;
    this.#part("save").hidden = !isOne;
    this.#part("save").href = one.url + "/download";
    this.#button("star").setAttribute("aria-pressed", one.favourite);
    this.#allow("before", this.place > 0);
    this.#allow("next", this.place < this.#pages.total - 1);
    this.#dialog.setAttribute("aria-label", isOne ? _("A picture, large") : _("Two pictures side by side"));
    if (this.isOpen) return;
    this.say("");
    this.#dialog.showModal();
    (isOne ? this.#button("next") : this.#dialog.querySelector(".primary")).focus();
  }

  /* In the list of what was deleted a picture can be brought back instead. */
  tell({ isDeleted, canUndo }) {
    this.#button("remove").lastChild.textContent = " " + (isDeleted ? _("Bring back") : _("Delete"));
    this.#allow("undo", canUndo);
  }

  /* Not `disabled`: a disabled button that has the focus takes the keys away from the dialog. */
  #allow(name, isAllowed) {
    this.#button(name).setAttribute("aria-disabled", !isAllowed);
  }

  #button(name) {
    return this.#element.querySelector('[data-large="' + name + '"]');
  }
}

function figure(picture, count) {
  const about = [picture.about, VERDICTS[picture.verdict], picture.favourite && "★", count].filter(Boolean).join(" · ");
  return node("figure", {}, node("img", { src: picture.url, alt: picture.prompt }),
    node("figcaption", {}, node("b", {}, picture.prompt), node("span", {}, about)));
}
