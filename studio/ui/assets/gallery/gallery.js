/* Gallery: filters, the keys, and what is done with pictures. */
import { ask } from "../shared/ask.js";
import { node, partsOf } from "../shared/dom.js";
import { areKeysTaken, meaningOf } from "../shared/keys.js";
import { _, language, ngettext, together } from "../shared/messages.js";
import { notify } from "../shared/notices.js";
import { Large } from "./large.js";
import { List } from "./list.js";
import { Pages, call } from "./pages.js";

const KEYS = {
  ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", Home: "home", End: "end",
  PageUp: "pageUp", PageDown: "pageDown", Enter: "open", Space: "select", f: "star", c: "copy",
  b: "compare", Delete: "remove", Backspace: "remove", z: "undo",
};
const LARGE_KEYS = {
  ArrowLeft: "before", ArrowRight: "next", f: "star", c: "copy", Delete: "remove", Backspace: "remove", z: "undo",
};
const EVERYTHING = { prompt: "", round: "", verdict: "", favourites: false, deleted: false };
const BASE = "base";

let life = null; // the page may build this component again: what listens to the document ends then

export function begin({ element, props, server, watch }) {
  life?.abort();
  life = new AbortController();
  const { signal } = life;
  const part = partsOf(element);
  const act = (name) => element.querySelector('[data-act="' + name + '"]');
  const say = (words) => { part("said").textContent = words; if (large.isOpen) large.say(words); };
  const pages = new Pages(server, () => list.paintSoon());
  const list = new List(part("scroll"), part("all"), pages);
  const large = new Large(element, pages);
  let filter = { ...EVERYTHING };
  let session_id = null;
  let shownNewest = null; // of the pictures that the list was asked for with
  let deletions = []; // ids, the last deletion last, for undo
  let isChanging = false; // pictures go or come back: a second key meant what is shown then

  /* --- which pictures ------------------------------------------------------------------------------ */
  /* Ask anew. The place in the list stays, unless other pictures are asked for. */
  async function load({ fromTop = false } = {}) {
    const { session_id: asked, newest } = props.value;
    const hadFocus = element.contains(document.activeElement);
    const reply = await pages.open({ session_id: asked, filter });
    if (!reply) return;
    session_id = asked;
    shownNewest = newest;
    if (fromTop) list.toTop();
    list.active = Math.max(0, Math.min(list.active, pages.total - 1));
    paintFilters(reply);
    paintEmpty();
    list.paint();
    paintActs();
    const at = document.activeElement;
    if (hadFocus && !large.isOpen && (!element.contains(at) || at.disabled || !at.offsetParent)) rest();
  }

  /* The focus goes to the list, or to what can be done without one. */
  function rest() {
    [part("scroll"), act("undo"), act("everything")].find((one) => !one.hidden && !one.disabled)?.focus();
  }

  function paintFilters({ prompts, rounds, deleted, total }) {
    const known = filter.prompt && !prompts.includes(filter.prompt) ? [filter.prompt, ...prompts] : prompts;
    options("prompt", [["", _("All prompts")], ...known.map((prompt) => [prompt, prompt])]);
    options("round", [["", _("Any model")], [BASE, _("Base model")], ...rounds.map(({ id, name }) => [id, name])]);
    element.querySelector('[data-filter="verdict"]').value = filter.verdict;
    for (const button of element.querySelectorAll("[data-toggle]"))
      button.setAttribute("aria-pressed", filter[button.dataset.toggle]);
    element.querySelector('[data-toggle="deleted"]').textContent = deleted
      ? _("Deleted ({number})", { number: deleted }) : _("Deleted");
    part("count").textContent = ngettext("{number} picture", "{number} pictures", total,
      { number: total.toLocaleString(language) });
  }

  function options(name, pairs) {
    const select = element.querySelector('[data-filter="' + name + '"]');
    const wanted = JSON.stringify(pairs);
    if (select.dataset.of !== wanted)
      select.replaceChildren(...pairs.map(([value, words]) => node("option", { value }, words)));
    select.dataset.of = wanted;
    select.value = filter[name];
  }

  function paintEmpty() {
    const isFiltered = Object.keys(EVERYTHING).some((name) => filter[name] !== EVERYTHING[name]);
    part("scroll").hidden = pages.total === 0;
    part("empty").hidden = pages.total > 0;
    part("empty-title").textContent = filter.deleted ? _("Nothing is deleted")
      : isFiltered ? _("No such picture") : _("No pictures yet");
    part("empty-text").textContent = filter.deleted ? _("What you delete waits here until you erase it.")
      : isFiltered ? _("No picture of this session is all of that.")
        : _("Every picture that is drawn appears here, the newest first.");
    act("everything").hidden = !isFiltered;
  }

  function choose(changes) {
    filter = { ...filter, ...changes };
    list.selected.clear();
    say("");
    return load({ fromTop: true });
  }

  /* --- what is done with pictures -------------------------------------------------------------------- */
  function paintActs() {
    const number = list.selected.size;
    act("compare").disabled = number !== 2;
    act("remove").hidden = filter.deleted;
    act("restore").hidden = act("erase").hidden = !filter.deleted;
    act("remove").disabled = act("restore").disabled = act("erase").disabled = pages.total === 0;
    act("undo").disabled = deletions.length === 0;
    act("clear").hidden = number === 0;
    act("clear").textContent = _("Select none ({number})", { number });
    act("fresh").hidden = props.value?.newest === shownNewest;
    large.tell({ isDeleted: filter.deleted, canUndo: deletions.length > 0 });
  }

  function select(place) {
    const picture = pages.at(place);
    if (!picture) return;
    if (!list.selected.delete(picture.id)) list.selected.set(picture.id, picture);
    list.paint();
    paintActs();
  }

  /* Those that are selected, or else the one that the keys are at. */
  function chosen() {
    if (large.isOpen) return large.picture ? [large.picture] : [];
    const here = pages.at(list.active);
    return list.selected.size ? [...list.selected.values()] : here ? [here] : [];
  }

  async function star() {
    const pictures = chosen();
    const favourite = pictures.some((one) => !one.favourite);
    for (const picture of pictures) {
      if (!await call(server.favourite, { image_id: picture.id, favourite })) return;
      picture.favourite = favourite;
    }
    list.paint();
    if (large.isOpen && large.picture) large.show(large.place);
  }

  async function copy() {
    const [picture] = chosen();
    const reply = picture && await call(server.settings, { image_id: picture.id });
    if (!reply) return;
    try {
      await navigator.clipboard.writeText(reply.text);
      say(_("The settings are copied."));
    } catch { // a browser that lets no page copy, such as one over plain HTTP
      say(_("This browser does not let the page copy. Save the picture: its settings are in it."));
    }
  }

  async function remove() {
    const image_ids = chosen().map((one) => one.id);
    if (!image_ids.length) return;
    if (filter.deleted) return restore(image_ids);
    const reply = await call(server.remove, { session_id, image_ids });
    if (!reply) return;
    if (!reply.image_ids.length) return reload(_("This was deleted in another window."));
    deletions.push(reply.image_ids);
    await reload(together(reply.words, ngettext("Undo brings it back.", "Undo brings them back.", reply.image_ids.length)));
  }

  async function restore(image_ids) {
    const reply = await call(server.restore, { session_id, image_ids });
    if (!reply) return;
    forget(image_ids);
    const number = reply.image_ids.length;
    await reload(number === 0 ? _("This is back already, or was erased in another window.")
      : ngettext("{number} picture is back.", "{number} pictures are back.", number));
  }

  async function undo() {
    if (deletions.length) await restore(deletions.at(-1));
  }

  function forget(image_ids) {
    const gone = new Set(image_ids);
    deletions = deletions.map((ids) => ids.filter((id) => !gone.has(id))).filter((ids) => ids.length);
  }

  async function erase() {
    const reply = await call(server.deleted, { session_id });
    if (!reply) return;
    if (!reply.image_ids.length) return say(reply.text || _("Nothing is deleted."));
    const title = _("Erase these pictures?");
    const text = together(reply.text, _("This cannot be undone."));
    if (!await ask({ title, text, ok: _("Erase them"), danger: true })) return;
    const done = await call(server.erase, { session_id, image_ids: reply.image_ids });
    if (!done) return;
    forget(reply.image_ids);
    await reload(ngettext("{number} picture is gone for good.", "{number} pictures are gone for good.", done.erased));
  }

  function alone(change) {
    return async () => {
      if (isChanging) return;
      isChanging = true;
      try { await change(); } finally { isChanging = false; }
    };
  }

  /* Pictures have come or gone: the same place of the list, and of the large view. */
  async function reload(words) {
    list.selected.clear();
    await load();
    if (large.isOpen && pages.total === 0) large.close();
    say(words);
    if (large.isOpen && large.place >= 0) await large.show(Math.min(large.place, pages.total - 1));
  }

  /* As if the picture were dropped on Prompt. */
  async function use() {
    const answer = await fetch(large.picture.url + "/download").catch(() => null);
    if (!answer?.ok) return notify("bad", _("This picture cannot be read."));
    const dropped = new DataTransfer();
    dropped.items.add(new File([await answer.blob()], "picture.png", { type: "image/png" }));
    const input = document.querySelector("#prompt-drop input");
    input.files = dropped.files;
    input.dispatchEvent(new Event("change"));
    large.close();
    document.getElementById("tab-prompt-button").click();
  }

  /* --- listening ------------------------------------------------------------------------------------- */
  const acts = {
    compare() { if (list.selected.size === 2) large.compare([...list.selected.values()]); },
    open: () => large.show(list.active),
    select: () => select(list.active),
    clear() { list.selected.clear(); list.paint(); paintActs(); },
    everything: () => choose(EVERYTHING),
    restore: alone(remove), remove: alone(remove), undo: alone(undo), erase: alone(erase),
    fresh: () => load({ fromTop: true }),
    star, copy,
  };
  const steps = {
    left: () => -1, right: () => 1, up: () => -list.columns, down: () => list.columns,
    pageUp: () => -list.columns * list.rowsOnScreen, pageDown: () => list.columns * list.rowsOnScreen,
    home: () => -pages.total, end: () => pages.total,
  };
  const largeActs = {
    before: () => large.place > 0 && large.show(large.place - 1),
    next: () => large.place >= 0 && large.place < pages.total - 1 && large.show(large.place + 1),
    prompt() { const { prompt } = large.picture; large.close(); choose({ prompt }); },
    star, copy, remove: acts.remove, undo: acts.undo, use,
  };

  element.addEventListener("click", (event) => {
    const { target } = event;
    const button = target.closest("button");
    if (button?.dataset.act) return acts[button.dataset.act]();
    if (button?.dataset.large) return largeActs[button.dataset.large]();
    if (button?.dataset.toggle) return choose({ [button.dataset.toggle]: !filter[button.dataset.toggle] });
    const place = list.placeOf(target);
    if (place === undefined) return;
    list.goTo(place);
    if (target.closest("[data-select]") || event.ctrlKey || event.metaKey) select(place);
    else acts.open();
  }, { signal });
  element.addEventListener("change", ({ target }) => {
    if (target.dataset.filter) choose({ [target.dataset.filter]: target.value });
  }, { signal });
  part("scroll").addEventListener("keydown", (event) => {
    const isUndo = event.key === "z" && (event.ctrlKey || event.metaKey);
    if (!isUndo && (event.ctrlKey || event.metaKey || event.altKey)) return;
    const what = meaningOf(event, KEYS);
    if (!what || areKeysTaken(event)) return;
    if (steps[what]) list.goTo(list.active + steps[what]());
    else if (!event.repeat) acts[what]();
    event.preventDefault();
    event.stopPropagation();
  }, { signal });
  element.querySelector("dialog").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const what = meaningOf(event, LARGE_KEYS);
    if (!what) return;
    if (large.place >= 0 && (!event.repeat || what === "before" || what === "next")) largeActs[what]();
    event.preventDefault();
    event.stopPropagation();
  }, { signal });
  element.querySelector("dialog").addEventListener("close", () => {
    if (large.place >= 0) list.goTo(large.place);
    large.place = -1;
    rest();
  }, { signal });

  /* --- what the server knows ------------------------------------------------------------------------- */
  let isVisible = false;
  // New pictures do not move what the next key or click is about.
  const isAtWork = () => !list.isAtTop || list.active > 0 || large.isOpen || document.activeElement === part("scroll");
  function accept() {
    if (!props.value || !isVisible) return;
    if (props.value.session_id !== session_id) {
      filter = { ...EVERYTHING };
      deletions = [];
      list.selected.clear();
      say("");
      load({ fromTop: true });
    } else if (props.value.newest !== shownNewest && !isAtWork()) load();
    else paintActs();
  }
  // Picks and stars of other tabs are seen when this one is opened again.
  const sight = new IntersectionObserver(([{ isIntersecting }]) => {
    if (isIntersecting === isVisible) return;
    isVisible = isIntersecting;
    if (isVisible && props.value?.session_id === session_id) load();
    else accept();
  });
  sight.observe(element);
  signal.addEventListener("abort", () => sight.disconnect());
  watch("value", accept);
}
