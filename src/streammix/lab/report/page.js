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

function draw() {
  for (const element of document.querySelectorAll("[data-plot]")) {
    const { data, layout } = themed(page.figures[element.dataset.plot]);
    const shown = data.map((trace) => ({ ...trace, visible: !hidden.has(trace.legendgroup) }));
    // A drag must scroll the page on a touch screen; with a mouse it zooms, a double click zooms back.
    const fitted = { ...layout, autosize: true, dragmode: touch ? false : "zoom" };
    Plotly.react(element, shown, fitted, { responsive: true, displayModeBar: false });
  }
}

for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const name = button.dataset.recipe;
    const show = hidden.delete(name);
    if (!show) hidden.add(name);
    button.setAttribute("aria-pressed", String(show));
    for (const part of document.querySelectorAll("[data-of]")) {
      if (part.dataset.of === name) part.classList.toggle("off", !show);
    }
    draw();
  });
}

darkPage.addEventListener("change", draw);
draw();
