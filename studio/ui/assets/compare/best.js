/* Best of many: the pictures, the best first. A star keeps one as a favourite in the gallery. */
import { node, partsOf } from "../shared/dom.js";
import { _ } from "../shared/messages.js";
import { notify } from "../shared/notices.js";

export function begin({ element, props, server, watch }) {
  const part = partsOf(element);
  let shown = null; // what the list shows

  function paint() {
    const { job, about, pictures } = props.value || { job: null, about: "", pictures: [] };
    const isDrawing = job && (job.state === "queued" || job.state === "running");
    part("progress").hidden = !isDrawing;
    if (isDrawing) {
      part("progress-text").textContent = job.message;
      part("progress-bar").style.inlineSize = Math.round(100 * job.progress) + "%";
    }
    part("problem").hidden = job?.state !== "failed";
    part("problem").textContent = job?.message || "";
    part("about").textContent = about;
    part("none").hidden = Boolean(pictures.length || isDrawing);
    const wanted = JSON.stringify(pictures);
    if (wanted === shown) return;
    shown = wanted;
    const there = new Map([...part("list").children].map((item) => [item.dataset.image, item]));
    part("list").replaceChildren(...pictures.map((one, place) => {
      const item = there.get(one.image_id) || cell(one);
      item.querySelector(".best-place").textContent = place ? place + 1 : _("Best");
      const star = item.querySelector(".star");
      star.ariaPressed = String(one.favourite);
      star.ariaLabel = one.favourite ? _("Keep no longer: seed {seed}", one) : _("Keep as a favourite: seed {seed}", one);
      return item;
    }));
  }

  function cell({ image_id, url, seed, prompt }) {
    return node("li", { "data-image": image_id },
      node("a", { class: "best-picture", href: url, target: "_blank", "aria-label": _("Open the picture of seed {seed}", { seed }) },
        node("img", { src: url, alt: prompt, loading: "lazy" })),
      node("b", { class: "best-place" }),
      node("button", { type: "button", class: "star", "data-image": image_id }, "★"),
      node("a", { class: "button small", href: url + "/download", download: "", "aria-label": _("Save the picture of seed {seed}", { seed }) }, _("Save")),
      node("span", { class: "soft" }, _("seed {seed}", { seed })));
  }

  element.addEventListener("click", async (event) => {
    const star = event.target.closest(".star");
    if (!star) return;
    const favourite = star.ariaPressed !== "true";
    star.ariaPressed = String(favourite);
    const reply = await server.keep({ image_id: star.dataset.image, favourite }).catch(() => null);
    if (reply?.ok) return notify("good", favourite ? _("Kept: it is among the favourites in the Gallery.") : _("A favourite no longer."));
    star.ariaPressed = String(!favourite);
    notify("bad", reply?.sentence || _("The studio does not answer. Try again in a moment."));
  });
  watch("value", paint);
  paint();
}
