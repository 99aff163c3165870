/* What this browser remembers of how the artist likes the pages. A browser may refuse to. */
export function remember(name, value) {
  try { localStorage.setItem("studio." + name, value); } catch {}
}

export function recall(name) {
  try { return localStorage.getItem("studio." + name); } catch { return null; }
}
