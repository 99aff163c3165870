/* What the whole page needs: the theme, the open tab, questions, notices, saving while typing. */
(() => {
  const studio = (window.studio = { server: null });
  const remember = (name, value) => { try { localStorage.setItem("studio." + name, value); } catch {} };
  const recall = (name) => { try { return localStorage.getItem("studio." + name); } catch { return null; } };
  studio.remember = remember;
  studio.recall = recall;

  /* --- dark and light: the system's, until the artist chooses ------------------------------- */
  const system = matchMedia("(prefers-color-scheme: dark)");
  const wanted = () => recall("theme") || (system.matches ? "dark" : "light");
  studio.paint = () => {
    const dark = wanted() === "dark";
    if (document.body && document.body.classList.contains("dark") !== dark)
      document.body.classList.toggle("dark", dark);
    document.documentElement.style.colorScheme = dark ? "dark" : "light";
  };
  studio.flipTheme = () => {
    remember("theme", wanted() === "dark" ? "light" : "dark");
    studio.paint();
  };
  system.addEventListener("change", studio.paint);
  const paintFromNowOn = () => {
    studio.paint();
    new MutationObserver(studio.paint).observe(document.body, { attributeFilter: ["class"] });
  };
  // From the cache this script may run before there is a body, or long after.
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", paintFromNowOn);
  else paintFromNowOn();

  /* --- the open tab is in the address, so that a reload comes back to it --------------------- */
  const TABS = ["prompt", "prefer", "train", "compare", "exam", "export"];
  const tabButton = (name) => document.getElementById("tab-" + name + "-button");
  studio.openTab = (name) => tabButton(name)?.click();
  studio.openFromAddress = () => {
    const name = location.hash.slice(1);
    if (TABS.includes(name) && tabButton(name)?.ariaSelected !== "true") studio.openTab(name);
  };
  addEventListener("hashchange", studio.openFromAddress);
  addEventListener("click", (event) => {
    const to = event.target.closest?.("[data-open-tab]");
    if (to) studio.openTab(to.dataset.openTab);
    const tab = event.target.closest?.("[role=tab]");
    const name = tab && (tab.id || "").replace(/^tab-|-button$/g, "");
    if (TABS.includes(name)) history.replaceState(null, "", "#" + name);
  });

  /* --- a question in the middle of the page -------------------------------------------------- */
  /* Resolves to the text, or true where no text is asked for, or null when it is left. */
  studio.ask = ({ title, text = "", label = "", value = null, ok = "OK", danger = false }) => {
    const dialog = document.createElement("dialog");
    dialog.className = "ask";
    const form = document.createElement("form");
    form.method = "dialog";
    const heading = document.createElement("h2");
    heading.textContent = title;
    heading.id = "ask-title";
    dialog.setAttribute("aria-labelledby", heading.id);
    form.append(heading);
    if (text) {
      const words = document.createElement("p");
      words.textContent = text;
      form.append(words);
    }
    let input = null;
    if (value !== null) {
      const wrap = document.createElement("label");
      wrap.append(label);
      input = document.createElement("input");
      input.value = value;
      input.required = true;
      input.maxLength = 120;
      wrap.append(input);
      form.append(wrap);
    }
    const row = document.createElement("div");
    row.className = "ask-buttons";
    const button = (words, kind, type) => {
      const made = document.createElement("button");
      made.textContent = words;
      made.type = type;
      made.className = "button " + kind;
      row.append(made);
      return made;
    };
    const cancel = button("Cancel", "", "button");
    button(ok, danger ? "danger" : "primary", "submit");
    form.append(row);
    dialog.append(form);
    document.body.append(dialog);
    return new Promise((resolve) => {
      let answer = null;
      cancel.addEventListener("click", () => dialog.close());
      form.addEventListener("submit", () => { answer = input ? input.value.trim() || null : true; });
      dialog.addEventListener("close", () => { dialog.remove(); resolve(answer); });
      dialog.showModal();
      (input || cancel).focus();
      input?.select();
    });
  };

  /* --- notices ------------------------------------------------------------------------------- */
  let leaving = 0;
  studio.notify = (tone, text) => {
    const area = document.getElementById("notice-area");
    if (!area) return;
    clearTimeout(leaving);
    area.dataset.tone = tone;
    area.querySelector(".notice-text").textContent = text;
    area.hidden = !text;
    if (tone !== "bad") leaving = setTimeout(() => { area.hidden = true; }, 7000);
  };
  addEventListener("click", (event) => {
    if (event.target.closest?.("#notice-area button")) document.getElementById("notice-area").hidden = true;
  });

  /* --- a field is saved when it is left; a pause in typing counts as leaving it --------------- */
  const leave = (field) => field?.dispatchEvent(new FocusEvent("blur"));
  let pause = 0;
  addEventListener("input", (event) => {
    const field = event.target;
    if (!field.closest?.(".autosave")) return;
    clearTimeout(pause);
    pause = setTimeout(leave, 1500, field);
  }, true);
  addEventListener("visibilitychange", () => {
    if (document.hidden && document.activeElement?.closest?.(".autosave")) leave(document.activeElement);
  });
})();
