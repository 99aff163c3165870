/* The fixed prompts over all rounds: one round at a time, or playing through them. */
import { node, partsOf } from "../shared/dom.js";
import { _ } from "../shared/messages.js";

const SHOWN_MS = 1200; // each round

export function begin({ element, props, watch }) {
  const part = partsOf(element);
  const play = element.querySelector('[data-act="play"]');
  let value = props.value || { rounds: [] };
  let at = 0;
  let timer = 0;
  let built = "";

  function picture(url, alt) {
    return url ? node("img", { src: url, alt, loading: "lazy" }) : node("span", { class: "picture none", role: "img", "aria-label": _("{name}, not drawn", { name: alt }) });
  }

  function build() {
    const { prompts, rounds } = value;
    part("stage").replaceChildren(...prompts.map((prompt, p) => node("figure", {},
      node("div", { class: "story-frames" }, ...rounds.map((round) => picture(round.images[p], round.name + ": " + prompt))),
      node("figcaption", { title: prompt }, prompt))));
    part("strip").replaceChildren(...rounds.map((round, n) => node("button", {
      type: "button", class: "story-round", "data-round": n, "aria-label": _("Show {name}", { name: round.name }),
    }, ...round.images.map((url) => picture(url, "")), node("span", {}, round.name))));
    part("at").max = rounds.length - 1;
    for (const link of element.querySelectorAll("[data-save]")) link.href = value.address + link.dataset.save;
  }

  function paint() {
    const told = value.rounds.length > 1 && value.prompts.length > 0;
    part("none").hidden = told;
    part("all").hidden = !told;
    if (!told) return stop();
    at = Math.min(at, value.rounds.length - 1);
    part("at").value = at;
    part("at").setAttribute("aria-valuetext", value.rounds[at].name);
    part("name").textContent = value.rounds[at].name;
    for (const frames of element.querySelectorAll(".story-frames"))
      [...frames.children].forEach((frame, n) => {
        frame.toggleAttribute("data-shown", n === at);
        if (n === at) frame.removeAttribute("aria-hidden");
        else frame.setAttribute("aria-hidden", "true");
      });
    for (const button of element.querySelectorAll(".story-round"))
      button.setAttribute("aria-pressed", Number(button.dataset.round) === at);
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = _("Play");
    play.setAttribute("aria-pressed", "false");
  }
  function start() {
    play.textContent = _("Pause");
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      if (!element.isConnected || element.offsetParent === null) return stop();
      at = (at + 1) % value.rounds.length;
      paint();
    }, SHOWN_MS);
  }

  element.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button === play) { if (timer) stop(); else start(); }
    if (button?.dataset.round) { stop(); at = Number(button.dataset.round); paint(); }
  });
  part("at").addEventListener("input", () => { stop(); at = Number(part("at").value); paint(); });

  function accept() {
    value = props.value || { rounds: [] };
    const wanted = JSON.stringify(value);
    if (wanted !== built && value.rounds.length) {
      at = value.rounds.length - 1;
      build();
    }
    built = wanted;
    paint();
  }
  watch("value", accept);
  accept();
}
