/* The card for a note on a question. */
export class Note {
  #card;
  #text;
  #asked = null; // what the card is about

  /* save(id, note) is called when the note was changed. */
  constructor(card, text, save) {
    this.#card = card;
    this.#text = text;
    card.addEventListener("close", () => {
      const note = text.value.trim();
      if (card.returnValue === "save" && note !== this.#asked.note) save(this.#asked.id, note);
    });
    card.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) card.close("save");
    });
  }

  open(asked) {
    if (!asked) return;
    this.#asked = asked;
    this.#text.value = asked.note;
    this.#card.returnValue = "";
    this.#card.showModal();
  }

  close() {
    this.#card.close();
  }
}
