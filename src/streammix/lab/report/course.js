// The slider: maps and plots by depth at one of the steps at which the runs were measured.
const sliders = document.querySelectorAll("[data-steps]");

// As tiles.py has it: the stronger a cell's colour the larger its number, of all that a name's maps ever hold.
function fill(cell, meaning, value, most) {
  const size = Math.abs(value), share = size / most;
  const sign = value < 0 ? "−" : "";
  cell.className = `${value < 0 ? "neg" : "pos"}${share > 0.55 ? " strong" : ""}`;
  cell.style.setProperty("--a", share.toFixed(2));
  cell.style.setProperty("--l", (value ? Math.min(1, Math.max(0, 1 + Math.log10(size) / 5)) : 0).toFixed(2));
  cell.dataset.log = value ? String(Math.floor(Math.log10(size))) : "";
  cell.title = `${meaning}: ${value === null ? "not finite" : value}`;
  if (value === null) cell.textContent = "?";
  else if (size < 0.005) cell.textContent = "0";
  else if (size < 0.995) cell.textContent = sign + size.toFixed(2).replace(/^0/, "");
  else cell.textContent = sign + (size < 9.95 ? size.toFixed(1) : size.toFixed(0));
}

function showMaps() {
  for (const group of document.querySelectorAll(".course .maps")) {
    const steps = page.course.maps[group.dataset.of];
    const most = Math.max(1, ...steps.flat(4).map(Math.abs));
    const [read, write, mix] = steps[place];
    group.querySelectorAll(".tile").forEach((tile, site) => {
      const cells = tile.querySelectorAll("i[data-log]"); // the reads, then each row of H_res with its write
      const values = [...read[site], ...mix[site].flatMap((row, i) => [...row, write[site][i]])];
      const meanings = read[site].map((_, j) => `read from stream ${j + 1}`);
      mix[site].forEach((row, i) => {
        meanings.push(...row.map((_, j) => `stream ${j + 1} into stream ${i + 1}`), `written to stream ${i + 1}`);
      });
      cells.forEach((cell, i) => fill(cell, meanings[i], values[i], most));
    });
  }
}

for (const slider of sliders) {
  slider.addEventListener("input", () => {
    place = Number(slider.value);
    for (const other of sliders) {
      other.value = slider.value;
      other.closest("label").querySelector("output").textContent = page.course.steps[place];
    }
    showMaps();
    draw([...document.querySelectorAll("[data-plot]")].filter((plot) =>
      page.figures[plot.dataset.plot].data.some((trace) => trace.meta?.frames)));
  });
}
if (sliders.length) showMaps();

// Below the legend, where that stays in sight.
const legend = document.querySelector(".legend");
const below = () => {
  const height = getComputedStyle(legend).position === "sticky" ? legend.offsetHeight : 0;
  document.documentElement.style.setProperty("--legend", `${height}px`);
};
new ResizeObserver(below).observe(legend);
below();
