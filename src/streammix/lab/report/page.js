"use strict";
// Figures are made with the light page's colours; on a dark page each is swapped for its counterpart.
const page = JSON.parse(document.getElementById("page-data").textContent);
const darkPage = matchMedia("(prefers-color-scheme: dark)");
const touch = matchMedia("(pointer: coarse)").matches;
const hidden = new Set();

function themed(figure) {
  if (!darkPage.matches) return figure;
  const swap = (text) => text.replace(/#[0-9a-f]{6}/g, (colour) => page.dark[colour] ?? colour);
  return JSON.parse(swap(JSON.stringify(figure)));
}

// The y axis of what is shown. Curves over steps count from a quarter of the run on: their beginning would flatten the rest.
function fittedRange(shown, layout) {
  const log = layout.yaxis?.type === "log";
  const steps = layout.xaxis?.title?.text === "step";
  const last = Math.max(...shown.flatMap((trace) => trace.x ?? []));
  const values = shown.flatMap((trace) => (trace.y ?? []).filter((y, i) =>
    Number.isFinite(y) && (!log || y > 0) && (!steps || trace.x[i] >= last / 4)));
  if (!values.length) return layout.yaxis?.range;
  const scaled = log ? values.map(Math.log10) : values;
  const low = Math.min(...scaled), high = Math.max(...scaled);
  const pad = 0.08 * (high - low) || 0.05 * Math.abs(high) || 0.5;
  return [low - pad, high + pad];
}

function draw() {
  for (const element of document.querySelectorAll("[data-plot]")) {
    const { data, layout } = themed(page.figures[element.dataset.plot]);
    const traces = data.map((trace) => ({ ...trace, visible: !hidden.has(trace.legendgroup) }));
    const shown = traces.filter((trace) => trace.visible);
    // A drag must scroll the page on a touch screen; with a mouse it zooms, a double click zooms back.
    const modebar = { bgcolor: "rgba(0,0,0,0)" };
    const fitted = { ...layout, autosize: true, modebar, dragmode: touch ? false : "zoom" };
    if (hidden.size && shown.length) fitted.yaxis = { ...layout.yaxis, range: fittedRange(shown, layout), autorange: false };
    const name = element.closest("figure").querySelector("h3").textContent;
    Plotly.react(element, traces, fitted, {
      responsive: true, displaylogo: false, displayModeBar: touch ? false : "hover",
      modeBarButtons: [["toImage"]], toImageButtonOptions: { format: "svg", filename: name },
    });
  }
}

// Every curve of a plot as rows: name, x, y.
function csv(figure) {
  const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
  const rows = figure.data.flatMap((trace) => (trace.x ?? []).map((x, i) => [quoted(trace.name ?? ""), x, trace.y[i]].join(",")));
  return ["name,x,y", ...rows].join("\n") + "\n";
}

for (const button of document.querySelectorAll("[data-csv]")) {
  button.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv(page.figures[button.dataset.csv])], { type: "text/csv" }));
    link.download = `${button.closest("figure").querySelector("h3").textContent}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => {
    document.body.dataset.maps = button.dataset.show;
    for (const other of document.querySelectorAll("[data-show]")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
  });
}

function toggle(button, show) {
  const name = button.dataset.recipe;
  if (show) hidden.delete(name);
  else hidden.add(name);
  button.setAttribute("aria-pressed", String(show));
  for (const part of document.querySelectorAll("[data-of]")) {
    if (part.dataset.of === name) part.classList.toggle("off", !show);
  }
}

const recipes = document.querySelectorAll("[data-recipe]");
for (const button of recipes) {
  button.addEventListener("click", () => {
    toggle(button, hidden.has(button.dataset.recipe));
    draw();
  });
}

for (const button of document.querySelectorAll("[data-all]")) {
  button.addEventListener("click", () => {
    for (const each of recipes) toggle(each, button.dataset.all === "true");
    draw();
  });
}

darkPage.addEventListener("change", draw);
draw();
