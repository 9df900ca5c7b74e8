"use strict";
// Figures are made with the light page's colours; on a dark page each is swapped for its counterpart.
const page = JSON.parse(document.getElementById("page-data").textContent);
const darkPage = matchMedia("(prefers-color-scheme: dark)");
const touch = matchMedia("(pointer: coarse)").matches;
const hidden = new Set();
let axis = "step"; // what curves over steps are shown by
let place = (page.course?.steps.length ?? 1) - 1; // of the slider

function themed(figure) {
  if (!darkPage.matches) return figure;
  const swap = (text) => text.replace(/#[0-9a-f]{6}/g, (colour) => page.dark[colour] ?? colour);
  return JSON.parse(swap(JSON.stringify(figure)));
}

// Steps as tokens or seconds, by the clock of a line; between two points of the clock on a straight line.
function along(steps, clock) {
  return steps.map((step) => {
    const right = Math.max(1, clock.step.findIndex((known) => known >= step));
    const [x0, x1] = [clock.step[right - 1], clock.step[right]];
    const [y0, y1] = [clock[axis][right - 1], clock[axis][right]];
    return y0 + ((y1 - y0) * (step - x0)) / (x1 - x0);
  });
}

// A figure as the switch and the slider have it: over steps, tokens or time, and at the slider's step.
function current(element) {
  const figure = page.figures[element.dataset.plot];
  const overSteps = figure.layout.xaxis?.title?.text === "step";
  const clocks = page.clocks[element.dataset.clock] ?? {};
  const turned = overSteps && axis !== "step";
  const data = figure.data.flatMap((trace) => {
    if (trace.meta?.frames) return [{ ...trace, y: trace.meta.frames[place] }];
    if (!turned) return [trace];
    const clock = clocks[trace.legendgroup];
    return clock ? [{ ...trace, x: along(trace.x, clock) }] : [];
  });
  if (!turned) return { data, layout: figure.layout, overSteps };
  const unit = axis === "tokens" ? "tokens" : "seconds";
  const xaxis = { ...figure.layout.xaxis, title: { ...figure.layout.xaxis.title, text: unit } };
  xaxis.unifiedhovertitle = { text: axis === "tokens" ? "%{x:,.0f} tokens" : "%{x:,.1f} s" };
  return { data, layout: { ...figure.layout, xaxis }, overSteps };
}

// The y axis of what is shown. Curves over steps count from a quarter of the run on: their beginning would flatten the rest.
function fittedRange(shown, layout, overSteps) {
  const log = layout.yaxis?.type === "log";
  const last = Math.max(...shown.flatMap((trace) => trace.x ?? []));
  const values = shown.flatMap((trace) => (trace.y ?? []).filter((y, i) =>
    Number.isFinite(y) && (!log || y > 0) && (!overSteps || trace.x[i] >= last / 4)));
  if (!values.length) return layout.yaxis?.range;
  const scaled = log ? values.map(Math.log10) : values;
  const low = Math.min(...scaled), high = Math.max(...scaled);
  const pad = 0.08 * (high - low) || 0.05 * Math.abs(high) || 0.5;
  return [low - pad, high + pad];
}

const plotOf = (number) => [...document.querySelectorAll("[data-plot]")].find((element) => element.dataset.plot === number);
const heading = (element) => element.closest("figure").querySelector("h3").textContent;

function draw(elements = document.querySelectorAll("[data-plot]")) {
  for (const element of elements) {
    const { data, layout, overSteps } = themed(current(element));
    const traces = data.map((trace) => ({ ...trace, visible: !hidden.has(trace.legendgroup) }));
    const shown = traces.filter((trace) => trace.visible);
    // A drag must scroll the page on a touch screen; with a mouse it zooms, a double click zooms back.
    const modebar = { bgcolor: "rgba(0,0,0,0)" };
    const fitted = { ...layout, autosize: true, modebar, dragmode: touch ? false : "zoom" };
    if (hidden.size && shown.length) {
      fitted.yaxis = { ...layout.yaxis, range: fittedRange(shown, layout, overSteps), autorange: false };
    }
    Plotly.react(element, traces, fitted, {
      responsive: true, displaylogo: false, displayModeBar: touch ? false : "hover",
      modeBarButtons: [["toImage"]], toImageButtonOptions: { format: "svg", filename: heading(element) },
    });
  }
}

function press(buttons, chosen) {
  for (const button of buttons) button.setAttribute("aria-pressed", String(button === chosen));
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
    const element = plotOf(button.dataset.csv);
    link.href = URL.createObjectURL(new Blob([csv(current(element))], { type: "text/csv" }));
    link.download = `${heading(button)}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

for (const button of document.querySelectorAll("[data-svg]")) {
  button.addEventListener("click", () => {
    const element = plotOf(button.dataset.svg);
    const size = { width: element.clientWidth, height: element.clientHeight };
    Plotly.downloadImage(element, { format: "svg", filename: heading(button), ...size });
  });
}

const axes = document.querySelectorAll("[data-axis]");
for (const button of axes) {
  button.addEventListener("click", () => {
    axis = button.dataset.axis;
    press(axes, button);
    draw();
  });
}

for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => {
    document.body.dataset.maps = button.dataset.show;
    press(document.querySelectorAll("[data-show]"), button);
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

{% include "course.js" %}

// Plots are as wide as they were drawn: on paper they are drawn again, in columns that fit it.
addEventListener("beforeprint", () => {
  document.body.classList.add("paper");
  for (const plot of document.querySelectorAll("[data-plot]")) Plotly.relayout(plot, { width: plot.clientWidth });
});
addEventListener("afterprint", () => {
  document.body.classList.remove("paper");
  for (const plot of document.querySelectorAll("[data-plot]")) Plotly.relayout(plot, { width: null, autosize: true });
});
darkPage.addEventListener("change", draw);
draw();
