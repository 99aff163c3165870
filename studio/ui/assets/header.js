/* The session menu and the theme button. What is chosen goes to Python as one event, 'session'. */
const menu = () => element.querySelector("#session-menu");

const questions = {
  new: () => ({ title: "New session", label: "Name", value: "New session", ok: "Begin" }),
  rename: (name) => ({ title: "Rename this session", label: "Name", value: name, ok: "Rename" }),
  duplicate: (name) => ({
    title: "Duplicate this session",
    text: "Its prompts and settings are copied. Picks and pictures stay where they are.",
    label: "Name of the copy",
    value: name + " (copy)",
    ok: "Duplicate",
  }),
  delete: (name) => ({
    title: "Delete “" + name + "”?",
    text: "Its picks, pictures and LoRAs go out of sight. The files are moved to the folder " +
      "“aside” of the studio’s home, not destroyed.",
    ok: "Delete",
    danger: true,
  }),
};

const copyReport = async () => {
  try {
    const answer = await fetch("/report");
    await navigator.clipboard.writeText(await answer.text());
    studio.notify("good", "Copied: the last errors, versions and device. Paste it where you ask.");
  } catch {  // a browser that lets no page copy, such as one over plain HTTP
    window.open("/report", "_blank");
  }
};

/* A session as a file: the browser saves it as it comes, and sends one as it is read. */
const save = (id, name) => {
  const link = document.createElement("a");
  link.href = "/sessions/" + encodeURIComponent(id) + ".zip";
  link.download = "";
  link.click();
  studio.notify("good", "Saving “" + name + "” with all its pictures and LoRAs as one file.");
};
const take = async (file) => {
  if (!file) return;
  studio.notify("good", "Taking in " + file.name + " …");
  const sent = fetch("/sessions", { method: "POST", body: file });
  const reply = await sent.then((answer) => answer.json()).catch(() => null);
  if (!reply) studio.notify("bad", "The studio did not take the file. Try again in a moment.");
  else studio.notify(reply.ok ? "good" : "bad", reply.sentence);
};
// Not a part of the bar, which is drawn anew while the artist looks for the file.
const chooser = document.createElement("input");
chooser.type = "file";
chooser.accept = ".zip,application/zip";
chooser.addEventListener("change", () => { take(chooser.files[0]); chooser.value = ""; });

element.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-act]");
  if (!button) return;
  const { act, id = "", name = "" } = button.dataset;
  if (act === "theme") return studio.flipTheme();
  menu()?.hidePopover();
  if (act === "take") return chooser.click();
  if (act === "save") return save(id, name);
  if (act === "report") return copyReport();
  const answer = questions[act] ? await studio.ask(questions[act](name)) : true;
  if (answer !== null) trigger("session", { act, id, name: answer === true ? name : answer });
});

// The first value comes when the whole page is built; a tab opened earlier would be closed again.
let isFirst = true;
watch("value", () => {
  if (isFirst) studio.openFromAddress();
  isFirst = false;
});
