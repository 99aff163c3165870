/* What the whole page listens to: the open tab, and saving while the artist types. */

/* --- the open tab is in the address, so that a reload comes back to it --------------------------- */
const TABS = ["prompt", "prefer", "train", "compare", "exam", "export", "gallery"];
export const tabButton = (name) => document.getElementById("tab-" + name + "-button");

export function openTab(name) {
  tabButton(name)?.click();
}

export function openFromAddress() {
  const name = location.hash.slice(1);
  if (TABS.includes(name) && tabButton(name)?.ariaSelected !== "true") openTab(name);
}

addEventListener("hashchange", openFromAddress);
addEventListener("click", (event) => {
  const to = event.target.closest?.("[data-open-tab]");
  if (to) openTab(to.dataset.openTab);
  const tab = event.target.closest?.("[role=tab]");
  const name = tab && (tab.id || "").replace(/^tab-|-button$/g, "");
  if (TABS.includes(name)) history.replaceState(null, "", "#" + name);
});

/* --- a field is saved when it is left; a pause in typing counts as leaving it --------------------- */
const PAUSE_MS = 1500;

let pause = 0;
const leave = (field) => field?.dispatchEvent(new FocusEvent("blur"));

addEventListener("input", (event) => {
  const field = event.target;
  if (!field.closest?.(".autosave")) return;
  clearTimeout(pause);
  pause = setTimeout(leave, PAUSE_MS, field);
}, true);
addEventListener("visibilitychange", () => {
  if (document.hidden && document.activeElement?.closest?.(".autosave")) leave(document.activeElement);
});
