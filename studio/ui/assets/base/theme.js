/* Dark or light: as the system has it, until the artist chooses. */
(() => {
  const NAME = "studio.theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => { try { return localStorage.getItem(NAME); } catch { return null; } };
  const wanted = () => chosen() || (system.matches ? "dark" : "light");

  function paint() {
    const dark = wanted() === "dark";
    if (document.body && document.body.classList.contains("dark") !== dark)
      document.body.classList.toggle("dark", dark);
    document.documentElement.style.colorScheme = dark ? "dark" : "light";
  }
  function paintFromNowOn() {
    paint();
    new MutationObserver(paint).observe(document.body, { attributeFilter: ["class"] });
  }
  system.addEventListener("change", paint);
  addEventListener("click", (event) => {
    if (!event.target.closest?.('[data-act="theme"]')) return;
    try { localStorage.setItem(NAME, wanted() === "dark" ? "light" : "dark"); } catch {}
    paint();
  });
  // From the cache this script may run before there is a body, or long after.
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", paintFromNowOn);
  else paintFromNowOn();
})();
