/* The session menu and the theme button. What is chosen goes to Python as one event, 'session'. */
import { ask } from "./ask.js";
import { _ } from "./messages.js";
import { notify } from "./notices.js";
import { openFromAddress } from "./page.js";
import { startTour } from "../tour/tour.js";

const questions = {
  new: () => ({ title: _("New session"), label: _("Name"), value: _("New session"), ok: _("Begin") }),
  rename: (name) => ({ title: _("Rename this session"), label: _("Name"), value: name, ok: _("Rename") }),
  duplicate: (name) => ({
    title: _("Duplicate this session"),
    text: _("Its prompts and settings are copied. Picks and pictures stay where they are."),
    label: _("Name of the copy"),
    value: _("{name} (copy)", { name }),
    ok: _("Duplicate"),
  }),
  delete: (name) => ({
    title: _("Delete “{name}”?", { name }),
    text: _("Its picks, pictures and LoRAs go out of sight. The files are moved to the folder " +
      "“aside” of the studio’s home, not destroyed."),
    ok: _("Delete"),
    danger: true,
  }),
};

async function copyReport() {
  try {
    const answer = await fetch("/report");
    await navigator.clipboard.writeText(await answer.text());
    notify("good", _("Copied: the last errors, versions and device. Paste it where you ask."));
  } catch {  // a browser that lets no page copy, such as one over plain HTTP
    window.open("/report", "_blank");
  }
}

const YEAR_S = 365 * 24 * 60 * 60;

/* The page is built anew in another language, and so are those that are opened later. */
function speak(language) {
  document.cookie = "studio-language=" + language + "; path=/; samesite=strict; max-age=" + YEAR_S;
  location.reload();
}

/* A session as a file: the browser saves it as it comes, and sends one as it is read. */
function save(id, name) {
  const link = document.createElement("a");
  link.href = "/sessions/" + encodeURIComponent(id) + ".zip";
  link.download = "";
  link.click();
  notify("good", _("Saving “{name}” with all its pictures and LoRAs as one file.", { name }));
}

async function take(file) {
  if (!file) return;
  notify("good", _("Taking in {name} …", { name: file.name }));
  const sent = fetch("/sessions", { method: "POST", body: file });
  const reply = await sent.then((answer) => answer.json()).catch(() => null);
  if (!reply) notify("bad", _("The studio did not take the file. Try again in a moment."));
  else notify(reply.ok ? "good" : "bad", reply.sentence);
}

/* Gradio's sliders say this in English alone. */
function nameResets() {
  for (const button of document.querySelectorAll(".reset-button"))
    button.ariaLabel = button.title = _("Reset to default value");
}

export function begin({ element, props, trigger, watch }) {
  // Not a part of the bar, which is drawn anew while the artist looks for the file.
  const chooser = document.createElement("input");
  chooser.type = "file";
  chooser.accept = ".zip,application/zip";
  chooser.addEventListener("change", () => { take(chooser.files[0]); chooser.value = ""; });

  element.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-act]");
    if (!button) return;
    const { act, id = "", name = "" } = button.dataset;
    if (act === "theme") return; // theme.js hears it
    element.querySelector("#session-menu")?.hidePopover();
    if (act === "tour") return startTour();
    if (act === "language") return speak(id);
    if (act === "take") return chooser.click();
    if (act === "save") return save(id, name);
    if (act === "report") return copyReport();
    const answer = questions[act] ? await ask(questions[act](name)) : true;
    if (answer !== null) trigger("session", { act, id, name: answer === true ? name : answer });
  });

  // The first value comes when the whole page is built; a tab opened earlier would be closed again.
  let isBuilt = false;
  function openTab() {
    if (!isBuilt && props.value) {
      isBuilt = true;
      nameResets();
      // a slider in a fold or a tab comes when that is opened
      new MutationObserver(nameResets).observe(document.body, { childList: true, subtree: true });
      openFromAddress();
    }
  }
  watch("value", openTab);
  openTab();
}
