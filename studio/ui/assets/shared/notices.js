/* The place for notices to the artist, whatever tab is open. */
const SHOWN_MS = 7000; // bad news stays until it is closed

let leaving = 0;

export function notify(tone, text) {
  const area = document.getElementById("notice-area");
  if (!area) return;
  clearTimeout(leaving);
  area.dataset.tone = tone;
  area.querySelector(".notice-text").textContent = text;
  area.hidden = !text;
  if (tone !== "bad") leaving = setTimeout(() => { area.hidden = true; }, SHOWN_MS);
}

/* The component shows the notices that Python sends. */
export function begin({ element, props, watch }) {
  const show = () => { if (props.value) notify(props.value.tone, props.value.text); };
  element.addEventListener("click", (event) => {
    if (event.target.closest("button")) document.getElementById("notice-area").hidden = true;
  });
  watch("value", show);
  show();
}
