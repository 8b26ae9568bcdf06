// The before/after viewer. The page is complete without it: every picture is in the sheet below.
document.documentElement.classList.remove("no-js");
for (const sheet of document.querySelectorAll(".sheet")) {
  const find = (selector) => sheet.querySelector(selector);
  const compare = find(".compare"), before = find(".before"), after = find(".after"), divider = find(".compare input");
  const pictures = [...sheet.querySelectorAll(".pic")];
  const radios = [...sheet.querySelectorAll(".choices input")];
  const columns = Number(sheet.dataset.columns);
  const at = (r, c) => pictures.find((p) => Number(p.dataset.row) === r && Number(p.dataset.column) === c);
  const compared = radios.filter((radio) => at(Number(radio.value), 0).dataset.figure);
  let row = Number((compared.length ? compared : radios).at(-1).value), column = 0;

  const show = () => {
    const dense = at(0, column).querySelector("img"), pruned = at(row, column).querySelector("img");
    before.src = dense.src;
    after.src = pruned.src;
    before.alt = dense.alt;
    after.alt = pruned.alt;
    compare.style.setProperty("--shape", dense.getAttribute("width") / dense.getAttribute("height"));
    for (const image of [before, after]) image.classList.toggle("crisp", dense.classList.contains("crisp"));
    find(".caption").textContent = at(0, column).title;
    find(".chip.r").textContent = at(row, 0).dataset.label;
    for (const radio of radios) {
      radio.checked = Number(radio.value) === row;
      const value = at(Number(radio.value), column).dataset.figure;
      radio.parentElement.querySelector("span:last-child").textContent = value;
    }
    for (const p of pictures) {
      const chosen = Number(p.dataset.column) === column && [0, row].includes(Number(p.dataset.row));
      p.setAttribute("aria-pressed", String(chosen));
    }
  };

  const turn = (by) => { column = (column + by + columns) % columns; show(); };

  divider.addEventListener("input", () => compare.style.setProperty("--cut", divider.value));
  for (const radio of radios) radio.addEventListener("change", () => { row = Number(radio.value); show(); });
  for (const p of pictures) {
    p.addEventListener("click", () => {
      column = Number(p.dataset.column);
      if (Number(p.dataset.row) > 0) row = Number(p.dataset.row);
      show();
    });
  }
  find(".previous").addEventListener("click", () => turn(-1));
  find(".next").addEventListener("click", () => turn(1));
  show();
}
