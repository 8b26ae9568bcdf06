// Sorting, filtering, other axes, and one row in full. The page is complete without it: tables, plots and links stand.
document.documentElement.classList.remove("no-js");
const WIDTH = 640, HEIGHT = 340, STEP = 100;
const make = (name, attributes, text) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  if (text !== undefined) element.textContent = text;
  return element;
};

const dialog = document.querySelector("dialog");
const inDialog = (selector) => dialog.querySelector(selector);
let strip = null, shown = 0;

const turn = (by) => {
  shown = (shown + by + strip.count) % strip.count;
  inDialog(".compare").style.setProperty("--shown", shown);
  inDialog(".caption").textContent = strip.captions[shown];
};

const list = (element, pairs) => {
  element.replaceChildren(...pairs.flatMap(([name, value]) => {
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name;
    dd.textContent = value;
    return [dt, dd];
  }));
};

const open = (tr, heads) => {
  const facts = JSON.parse(tr.dataset.facts);
  const cells = [...tr.cells], name = tr.querySelector(".name").textContent, budget = cells[2].dataset.v;
  inDialog("h2").textContent = budget ? `${name}, ${budget}` : name;
  inDialog(".shown-small").textContent = facts.id;
  inDialog(".shown-error").textContent = tr.querySelector("th .error")?.textContent ?? "";
  const figures = heads.map((head, i) => [head, cells[i + 3].innerText.trim().replace(/\s*\n\s*/g, "  ")]);
  list(inDialog("dl"), [...figures.filter(([, text]) => text !== "–"), ...Object.entries(facts.facts)]);
  strip = facts.strip ?? null;
  inDialog(".shown-pictures").hidden = !strip;
  inDialog(".shown-body").classList.toggle("bare", !strip);
  if (strip) {
    const compare = inDialog(".compare"), [before, after] = compare.querySelectorAll("img");
    before.src = `pictures/${strip.before}`;
    after.src = `pictures/${strip.after}`;
    for (const image of [before, after]) image.classList.toggle("crisp", strip.width <= 64);
    compare.style.setProperty("--shape", strip.width / strip.height);
    compare.style.setProperty("--count", strip.count);
    inDialog(".steps").hidden = strip.count < 2;
    shown = 0;
    turn(0);
  }
  inDialog(".shown-command").textContent = facts.command;
  for (const element of dialog.querySelectorAll(".shown-command, .shown-command-head")) element.hidden = !facts.command;
  inDialog(".shown-links").replaceChildren(...[...tr.querySelectorAll(".files a")].map((a) => a.cloneNode(true)));
  dialog.showModal();
};

const divider = inDialog(".compare input");
divider.addEventListener("input", () => inDialog(".compare").style.setProperty("--cut", divider.value));
inDialog(".previous").addEventListener("click", () => turn(-1));
inDialog(".next").addEventListener("click", () => turn(1));
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

// A plot: `draw` puts it on the chosen axes. Positions are in the page; only paths and ticks are made here.
const plotOf = (figure, rows) => {
  const axes = { x: JSON.parse(figure.dataset.x), y: JSON.parse(figure.dataset.y) };
  const svg = figure.querySelector("svg"), marks = [...svg.querySelectorAll(".mark")];
  const lines = [...svg.querySelectorAll("path.line")], choose = { x: figure.querySelector(".choose-x"), y: figure.querySelector(".choose-y") };
  const path = (points) => (points.length > 1 ? "M" + points.map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" ") : "");

  const draw = () => {
    const chosen = { x: Number(choose.x.value), y: Number(choose.y.value) }, places = [];
    for (const mark of marks) {
      const at = ["x", "y"].map((side) => mark.dataset[side].split(" ")[chosen[side]]);
      const placed = !at.includes("-");
      mark.setAttribute("visibility", placed ? "visible" : "hidden");
      if (!placed) continue;
      const place = [Number(at[0]) * WIDTH, (1 - Number(at[1])) * HEIGHT];
      mark.setAttribute("transform", `translate(${place[0].toFixed(1)} ${place[1].toFixed(1)})`);
      places.push({ mark, place, row: Number(mark.dataset.i), curve: mark.dataset.c, group: mark.dataset.g, quoted: mark.classList.contains("quoted") });
    }
    for (const line of lines) {
      const groups = new Map();
      for (const p of places) if (p.curve === line.dataset.c) groups.set(p.group, [...(groups.get(p.group) ?? []), p.place]);
      const means = [...groups.values()].map((g) => [0, 1].map((k) => g.reduce((sum, p) => sum + p[k], 0) / g.length));
      line.setAttribute("d", path(means.sort((a, b) => a[0] - b[0])));
    }
    const own = places.some((p) => !p.quoted) ? places.filter((p) => !p.quoted) : places;
    const front = [];
    for (const p of own.sort((a, b) => a.place[0] - b.place[0] || a.place[1] - b.place[1])) {
      const best = front.length ? front[front.length - 1].place : [0, Infinity];
      if (p.place[1] < best[1] || (p.place[0] === best[0] && p.place[1] === best[1])) front.push(p);
    }
    svg.querySelector(".front-line").setAttribute("d", path(front.map((p) => p.place)));
    const best = new Set(front.map((p) => p.row));
    for (const row of rows) row.tr.classList.toggle("front", row.front = best.has(row.index));
    const [ax, ay] = [axes.x[chosen.x], axes.y[chosen.y]];
    svg.querySelector(".x-name").textContent = ax.name;
    svg.querySelector(".x-ticks").replaceChildren(...ax.ticks.flatMap(([at, text]) => [
      make("line", { class: "axis", x1: at * WIDTH, x2: at * WIDTH, y1: HEIGHT, y2: HEIGHT + 5 }),
      make("text", { x: at * WIDTH, y: HEIGHT + 20, "text-anchor": "middle" }, text),
    ]));
    svg.querySelector(".y-ticks").replaceChildren(...ay.ticks.flatMap(([at, text]) => [
      make("line", { class: "axis", x1: 0, x2: WIDTH, y1: (1 - at) * HEIGHT, y2: (1 - at) * HEIGHT }),
      make("text", { x: -9, y: (1 - at) * HEIGHT + 4, "text-anchor": "end" }, text),
    ]));
  };
  return { svg, marks, lines, choose, draw };
};

for (const section of document.querySelectorAll(".task")) {
  const find = (selector) => section.querySelector(selector);
  const body = find(".rows tbody"), more = find(".more"), figure = find(".plot");
  const heads = [...section.querySelectorAll(".rows thead th")];
  const names = heads.slice(2).map((th) => th.innerText.replace(/\s*\n\s*/g, ", "));
  const rows = [...body.rows].map((tr, index) => ({
    tr, index, state: tr.classList[0], front: tr.classList.contains("front"), budget: tr.cells[2].dataset.v,
    text: tr.textContent.toLowerCase(),
    values: heads.map((_, i) => {
      const cell = tr.cells[i + 1];
      return i < 2 ? (i ? cell.dataset.v : tr.querySelector(".name").textContent) : cell.dataset.v === undefined ? null : Number(cell.dataset.v);
    }),
  }));
  const plot = figure && plotOf(figure, rows);
  const order = new Intl.Collator("en", { numeric: true }).compare;
  let column = heads.findIndex((th) => th.hasAttribute("aria-sort")), down = column >= 0 && heads[column].getAttribute("aria-sort") === "descending";
  let sorted = rows, limit = STEP;

  const show = () => {
    const words = find("[type=search]").value.toLowerCase().split(/\s+/).filter(Boolean);
    const budget = find(".by-budget")?.value, state = find(".by-state")?.value, front = find(".only-front")?.checked;
    const kept = sorted.filter((row) => words.every((word) => row.text.includes(word)) && (!budget || row.budget === budget)
      && (!state || row.state === state) && (!front || row.front));
    const visible = new Set(kept.slice(0, limit));
    for (const row of rows) row.tr.hidden = !visible.has(row);
    find(".count").textContent = kept.length === rows.length ? `${rows.length} rows` : `${kept.length} of ${rows.length} rows`;
    more.hidden = visible.size === kept.length;
    more.querySelector("button").textContent = `Show ${Math.min(STEP, kept.length - limit)} more`;
    const inside = new Set(kept.map((row) => row.index));
    for (const mark of plot?.marks ?? []) mark.classList.toggle("out", !inside.has(Number(mark.dataset.i)));
  };

  const sort = () => {
    const compare = (a, b) => {
      const [x, y] = [a.values[column], b.values[column]];
      if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index;
      const by = typeof x === "string" ? order(x, y) : x - y;
      return (down ? -by : by) || a.index - b.index;
    };
    sorted = [...rows].sort(compare);
    body.append(...sorted.map((row) => row.tr));
    heads.forEach((th, i) => (i === column ? th.setAttribute("aria-sort", down ? "descending" : "ascending") : th.removeAttribute("aria-sort")));
    show();
  };

  heads.forEach((th, i) => th.querySelector("button").addEventListener("click", () => {
    down = i === column ? !down : th.hasAttribute("data-down");
    column = i;
    sort();
  }));
  for (const control of section.querySelectorAll(".controls input, .controls select")) for (const event of ["input", "change"]) control.addEventListener(event, show);
  more.querySelector("button").addEventListener("click", () => { limit += STEP; show(); });
  body.addEventListener("click", (event) => {
    if (event.target.closest("button.open")) open(event.target.closest("tr"), names);
  });

  if (plot) {
    for (const select of Object.values(plot.choose)) select.addEventListener("change", () => { plot.draw(); show(); });
    plot.svg.addEventListener("click", (event) => {
      const mark = event.target.closest(".mark");
      if (mark) open(rows[Number(mark.dataset.i)].tr, names);
    });
    const light = (curve, row) => {
      plot.svg.classList.toggle("focus", curve !== undefined);
      for (const part of [...plot.marks, ...plot.lines]) part.classList.toggle("on", part.dataset.c === curve);
      for (const mark of plot.marks) mark.classList.toggle("here", Number(mark.dataset.i) === row);
    };
    const methods = find(".methods tbody");
    methods.addEventListener("mouseover", (event) => light(event.target.closest("tr")?.dataset.c));
    methods.addEventListener("mouseleave", () => light());
    body.addEventListener("mouseover", (event) => {
      const index = Number(event.target.closest("tr")?.dataset.i);
      light(plot.marks.find((mark) => Number(mark.dataset.i) === index)?.dataset.c, index);
    });
    body.addEventListener("mouseleave", () => light());
    plot.svg.addEventListener("mouseover", (event) => light(event.target.closest(".mark, path.line")?.dataset.c));
    plot.svg.addEventListener("mouseleave", () => light());
  }
  show();
}
