/* Triage: the pictures of a folder one by one, each good, bad or skipped by one key.
 *
 * What is said goes into the outbox, which sends it until the store has it, and the next picture is
 * shown at once. A skipped one comes again when the card is opened again.
 */
import { partsOf } from "../shared/dom.js";
import { meaningOf } from "../shared/keys.js";
import { _ } from "../shared/messages.js";
import { notify } from "../shared/notices.js";
import { Outbox } from "../shared/outbox.js";

const KEYS = {
  ArrowRight: "good", g: "good", 1: "good", ArrowLeft: "bad", b: "bad", 0: "bad",
  ArrowDown: "skip", s: "skip", z: "undo",
};

let life = null; // the page may build this component again: what listens to the window ends then

export function begin({ element, props, server, watch }) {
  life?.abort();
  life = new AbortController();
  const { signal } = life;
  const part = partsOf(element);
  const act = (name) => element.querySelector('[data-act="' + name + '"]');
  const card = element.querySelector("dialog");
  const outbox = new Outbox(element, "triage", server, () => {}, signal);
  let pictures = []; // { id, url, prompt, alike }
  let said = []; // of those before the one that is shown, in order
  let last = null; // the reply to what was said last

  const acts = {
    async open() {
      await last; // what the store does not know yet would be asked again, or left out
      const reply = await server.to_triage({ session_id: props.value.session_id }).catch(() => null);
      if (!reply?.ok) return notify("bad", reply?.sentence || _("The studio does not answer. Try again."));
      pictures = reply.pictures;
      said = [];
      paint();
      card.showModal();
    },
    close: () => card.close(),
    good: () => say("good"),
    bad: () => say("bad"),
    skip: () => say("skip"),
    undo() {
      const before = said.pop();
      if (before && before !== "skip") send(null);
      paint();
    },
  };

  function say(verdict) {
    if (said.length >= pictures.length) return;
    if (verdict !== "skip") send(verdict);
    said.push(verdict);
    paint();
  }

  /* About the picture that is shown, or that was shown before the one that is taken back. */
  function send(verdict) {
    const { id } = pictures[said.length];
    last = outbox.send("say", { answer_id: crypto.randomUUID(), image_id: id, verdict });
  }

  function paint() {
    const shown = pictures[said.length];
    const number = (verdict) => said.filter((one) => one === verdict).length;
    const counts = { good: number("good"), bad: number("bad"), skipped: number("skip") };
    const place = { number: said.length + 1, total: pictures.length };
    part("count").textContent = shown
      ? _("{number} of {total}: {good} good, {bad} bad, {skipped} skipped", { ...place, ...counts })
      : _("{good} good, {bad} bad, {skipped} skipped", counts);
    part("prompt").textContent = shown ? shown.prompt : "";
    part("alike").textContent = shown ? shown.alike : pictures.length
      ? _("You have looked at all of them. Those you skipped come again next time.")
      : _("There is nothing to look at: read a folder first, or all of it is good or bad already.");
    const picture = part("picture");
    picture.hidden = !shown;
    if (shown) {
      picture.src = shown.url;
      picture.alt = _("The picture, from {name}", { name: shown.file });
      const next = pictures[said.length + 1];
      if (next) new Image().src = next.url;
    }
    for (const verdict of ["good", "bad", "skip"]) act(verdict).disabled = !shown;
    act("undo").disabled = said.length === 0;
    act("open").disabled = !props.value?.pictures;
  }

  element.addEventListener("click", (event) => {
    const button = event.target.closest("[data-act]");
    if (button) acts[button.dataset.act]();
  }, { signal });
  card.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const meaning = meaningOf(event, KEYS);
    if (!meaning) return;
    event.preventDefault();
    event.stopPropagation();
    acts[meaning]();
  }, { signal });
  watch("value", paint);
  paint();
}
