/* The results of the exams: in a sentence, by strength, and which picture was which. */
import { node, partsOf } from "../shared/dom.js";
import { _ } from "../shared/messages.js";

export function paintResults(element, { result, rows, empty }) {
  const part = partsOf(element);
  part("empty").hidden = Boolean(result);
  part("result").hidden = !result;
  part("empty-title").textContent = empty?.title || "";
  part("empty-text").textContent = empty?.text || "";
  part("empty-action").hidden = !empty?.action;
  part("empty-action").textContent = empty?.action || "";
  part("empty-action").dataset.openTab = empty?.tab || "";
  element.querySelector(".exam-about").hidden = Boolean(empty?.action);
  part("result-what").textContent = result?.what || "";
  // What stands in brackets is not torn apart.
  part("sentence").replaceChildren(...(result?.sentence || "").split(/([(（][^)）]*[)）][.。]?)/).map((words, n) =>
    n % 2 ? node("span", { class: "whole" }, words) : words));
  part("meaning").textContent = result?.meaning || "";
  part("table").replaceChildren(...(rows?.length ? [table(rows)] : []));
  part("reveal").replaceChildren(...(result ? reveal(result) : []));
}

function table(rows) {
  const head = node("tr", {}, ...[_("Round"), _("Strength"), _("Tuned chosen"), ""].map((words) => {
    const cell = node("th", { scope: "col" });
    if (words) cell.textContent = words;
    else cell.append(node("span", { class: "exam-axis", "aria-hidden": "true" }));
    return cell;
  }));
  const axis = head.querySelector(".exam-axis");
  for (const percent of [0, 50, 100]) axis.append(node("i", { style: "inset-inline-start:" + percent + "%" }, percent + "%"));
  const body = rows.map((row) => {
    const plot = node("span", { class: "exam-plot", "aria-hidden": "true" });
    if (row.share != null) {
      plot.append(
        node("i", { class: "range", style: "inset-inline:" + 100 * row.low + "% " + 100 * (1 - row.high) + "%" }),
        node("i", { class: "dot", style: "inset-inline-start:" + 100 * row.share + "%" }),
      );
    }
    const made = node("tr", {},
      node("td", {}, "" + row.round),
      node("td", {}, "" + row.strength),
      node("td", {}, row.ties
        ? _("{counted}, {ties} without a difference", { counted: row.counted, ties: row.ties }) : row.counted),
      node("td", { class: "exam-plot-cell" }, plot));
    if (row.recommended) {
      made.dataset.recommended = "";
      made.children[1].append(" ", node("span", { class: "badge" }, _("Recommended")));
    }
    return made;
  });
  const caption = node("caption", {}, _("What the exams found, by strength"));
  return node("table", {}, caption, node("thead", {}, head), node("tbody", {}, ...body));
}

function reveal(result) {
  const cells = result.pairs.map((pair) => {
    const sides = ["left", "right"].map((side) => {
      const tuned = pair.tuned === side;
      const name = tuned ? _("Tuned") : _("Base");
      const chosen = pair.choice === side;
      const figure = node("figure", chosen ? { "data-chosen": "" } : {},
        node("img", { src: pair[side], alt: name + ": " + pair.prompt, loading: "lazy" }),
        node("figcaption", { class: "tag " + (tuned ? "tuned" : "base") }, name + (chosen ? " ✓" : "")));
      return figure;
    });
    const words = pair.prompt + (pair.choice === "tie" ? " · " + _("no difference") : "");
    return node("div", { class: "exam-revealed" }, ...sides, node("span", {}, words));
  });
  return [node("h2", { class: "section" }, _("Which was which")), node("div", { class: "exam-grid" }, ...cells)];
}
