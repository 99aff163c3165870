/* What this browser remembers of how the artist likes the pages. A browser may refuse to. */
export function remember(name, value) {
  try { localStorage.setItem("studio." + name, value); } catch {}
}

export function recall(name) {
  try { return localStorage.getItem("studio." + name); } catch { return null; }
}

/* What this tab has not sent yet, also for the next page in it. */
export function keepUnsent(name, entries) {
  try { sessionStorage.setItem("studio.unsent." + name, JSON.stringify(entries)); } catch {}
}

export function unsent(name) {
  try { return JSON.parse(sessionStorage.getItem("studio.unsent." + name)) || []; } catch { return []; }
}
