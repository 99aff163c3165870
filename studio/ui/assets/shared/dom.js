/* A new element with its attributes and children. */
export function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, text] of Object.entries(attributes)) made.setAttribute(name, text);
  made.append(...children);
  return made;
}

/* Finds the parts of a component by name: `data-part` in its template. */
export function partsOf(element) {
  return (name) => element.querySelector('[data-part="' + name + '"]');
}

/* Tells Python that one of these buttons was pressed; the list of buttons may be drawn anew. */
export function onPress(element, selector, tell) {
  element.addEventListener("click", (event) => {
    const button = event.target.closest(selector);
    if (button) tell(button.dataset);
  });
}
