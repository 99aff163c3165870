/* The same page may be open in several windows: each hears when something was answered in another. */
const channel = new BroadcastChannel("studio");

export function tellOthers() {
  channel.postMessage("answered");
}

/* `hear()` when something was answered in another window, and when this one is looked at again. */
export function onReturn(hear, signal) {
  channel.addEventListener("message", hear, { signal });
  addEventListener("focus", hear, { signal });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) hear(); }, { signal });
}
