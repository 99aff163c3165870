/* A grid over four things: any two of them across and down, one value of each of the others. */
import { node, partsOf } from "../shared/dom.js";
import { meaningOf } from "../shared/keys.js";
import { _ } from "../shared/messages.js";
import { notify } from "../shared/notices.js";

const DIMENSIONS = ["prompts", "seeds", "rounds", "strengths"];
const NAMES = { prompts: _("Prompt"), seeds: _("Seed"), rounds: _("Round"), strengths: _("Strength") };
const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
const ZOOMS = { "+": 32, "=": 32, "-": -32 };

export function begin({ element, props, server, watch }) {
  const part = partsOf(element);
  const pick = (name) => element.querySelector('[data-pick="' + name + '"]');
  const dialog = element.querySelector("dialog");

  let value = props.value || { grids: [], newest: null, job: null };
  const known = new Map(); // grids that were opened, by id
  let open = null; // the id of the grid that is shown; null: the newest
  let columns = "strengths";
  let rows = "rounds";
  let fixed = { prompts: 0, seeds: 0, rounds: 0, strengths: 0 };
  let large = 0;

  function options(select, pairs, chosen) {
    const wanted = JSON.stringify(pairs);
    if (select.dataset.of !== wanted) {
      select.replaceChildren(...pairs.map(([id, name]) => node("option", { value: id }, name)));
      select.dataset.of = wanted;
    }
    select.value = chosen;
  }
  const shown = () => (open ? known.get(open) : value.newest);

  /* Across and down lie the things that vary most, strengths and rounds before the others. */
  function arrange(grid) {
    const order = ["strengths", "rounds", "prompts", "seeds"].sort((a, b) => (grid[b].length > 1) - (grid[a].length > 1));
    [columns, rows] = order;
    fixed = { prompts: 0, seeds: 0, rounds: 0, strengths: 0 };
  }

  function imageAt(grid, place) {
    const index = DIMENSIONS.reduce((sum, name) => sum * grid[name].length + place[name], 0);
    return grid.images[index] || null;
  }
  function said(grid, place) {
    return _("{prompt} · seed {seed} · {round} at {strength}", {
      prompt: grid.prompts[place.prompts],
      seed: grid.seeds[place.seeds],
      round: grid.rounds[place.rounds],
      strength: grid.strengths[place.strengths],
    });
  }
  function places(grid) {
    const all = [];
    for (let down = 0; down < grid[rows].length; down++)
      for (let across = 0; across < grid[columns].length; across++)
        all.push({ ...fixed, [rows]: down, [columns]: across });
    return all;
  }

  function paint() {
    const { job } = value;
    const drawing = job && (job.state === "queued" || job.state === "running");
    part("progress").hidden = !drawing;
    if (drawing) {
      const share = Math.round(100 * job.progress);
      part("progress-text").textContent = job.message;
      part("progress-bar").style.inlineSize = share + "%";
    }
    part("problem").hidden = !(job && job.state === "failed");
    part("problem").textContent = job ? job.message : "";
    const grid = shown();
    part("bar").hidden = part("table").hidden = !grid;
    part("none").hidden = Boolean(grid) || drawing;
    if (!grid) return;
    options(pick("grid"), value.grids.map((one) => [one.id, one.name]), grid.id);
    const names = DIMENSIONS.map((name) => [name, NAMES[name]]);
    options(pick("columns"), names.filter(([name]) => name !== rows), columns);
    options(pick("rows"), names.filter(([name]) => name !== columns), rows);
    paintFixed(grid);
    paintTable(grid);
    if (dialog.open) showLarge();
  }

  function paintFixed(grid) {
    const others = DIMENSIONS.filter((name) => name !== rows && name !== columns && grid[name].length > 1);
    const wanted = JSON.stringify([grid.id, others]);
    if (part("fixed").dataset.of === wanted) return;
    part("fixed").dataset.of = wanted;
    part("fixed").replaceChildren(...others.map((name) => {
      const select = node("select", { "data-fixed": name, "aria-label": NAMES[name] });
      options(select, grid[name].map((text, n) => ["" + n, "" + text]), "" + fixed[name]);
      return node("label", {}, NAMES[name] + " ", select);
    }));
  }

  function paintTable(grid) {
    const wanted = JSON.stringify([grid, columns, rows, fixed]);
    if (part("table").dataset.of === wanted) return;
    part("table").dataset.of = wanted;
    const head = node("tr", {}, node("td"), ...grid[columns].map((text) => node("th", { scope: "col" }, label(columns, text))));
    const all = places(grid);
    const width = grid[columns].length;
    const body = grid[rows].map((text, down) => node("tr", {}, node("th", { scope: "row" }, label(rows, text)),
      ...all.slice(down * width, (down + 1) * width).map((place, across) => {
        const url = imageAt(grid, place);
        if (!url) return node("td", {}, node("span", { class: "picture none", role: "img", "aria-label": _("Not drawn") }));
        const button = node("button", { type: "button", "data-large": down * width + across, "aria-label": _("Open {name}", { name: said(grid, place) }) },
          node("img", { src: url, alt: said(grid, place), loading: "lazy" }));
        return node("td", {}, button);
      })));
    part("table").replaceChildren(node("table", {}, node("thead", {}, head), node("tbody", {}, ...body)));
  }
  function label(name, text) {
    if (name === "strengths") return _("at {strength}", { strength: text });
    return name === "seeds" ? _("seed {seed}", { seed: text }) : "" + text;
  }

  /* --- one of them, large ------------------------------------------------------------------------- */
  function showLarge() {
    const grid = shown();
    const all = places(grid);
    const place = all[large];
    const url = place && imageAt(grid, place);
    if (!url) return;
    part("large").src = url;
    part("large").alt = part("large-text").textContent = said(grid, place);
    part("large-save").href = url + "/download";
  }
  function step(by) {
    const grid = shown();
    const all = places(grid);
    for (let tries = 0; tries < all.length; tries++) {
      large = (large + by + all.length) % all.length;
      if (imageAt(grid, all[large])) break;
    }
    showLarge();
  }

  /* --- listening ----------------------------------------------------------------------------------- */
  element.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (event.target === dialog) dialog.close();
    if (!button) return;
    if (button.dataset.large) {
      large = Number(button.dataset.large);
      showLarge();
      dialog.showModal();
    }
    if (button.dataset.step) step(Number(button.dataset.step));
  });
  dialog.addEventListener("keydown", (event) => {
    const by = meaningOf(event, STEPS);
    if (!by) return;
    step(by);
    event.preventDefault();
    event.stopPropagation();
  });
  element.addEventListener("input", (event) => {
    if (event.target === part("zoom")) zoom();
  });
  function zoom() { element.querySelector(".xy").style.setProperty("--cell", part("zoom").value + "px"); }
  part("table").addEventListener("keydown", (event) => {
    const by = meaningOf(event, ZOOMS);
    if (!by) return;
    part("zoom").value = Number(part("zoom").value) + by;
    zoom();
    event.preventDefault();
  });
  element.addEventListener("change", async (event) => {
    const { target } = event;
    if (target === pick("columns")) columns = target.value;
    if (target === pick("rows")) rows = target.value;
    if (target.dataset.fixed) fixed[target.dataset.fixed] = Number(target.value);
    if (target === pick("grid")) await openGrid(target.value);
    paint();
  });
  async function openGrid(id) {
    if (id !== value.newest?.id && !known.has(id)) {
      const reply = await server.grid({ job_id: id }).catch(() => null);
      if (!reply?.ok) return notify("bad", reply?.sentence || _("The studio does not answer. Try again in a moment."));
      known.set(id, reply.grid);
    }
    open = id === value.newest?.id ? null : id;
    arrange(shown());
  }

  let seen = null;
  function accept() {
    value = props.value || value;
    if (value.newest && value.newest.id !== seen) { // another session, or a grid that was just begun
      seen = value.newest.id;
      open = null;
      arrange(value.newest);
    }
    paint();
  }
  watch("value", accept);
  zoom();
  accept();
}
