"use strict";

// Draws every chart of the page, in the colours of the page's theme.
const dark = matchMedia("(prefers-color-scheme: dark)");

function themed() {
  const style = getComputedStyle(document.body);
  const text = style.getPropertyValue("--text").trim();
  const grid = style.getPropertyValue("--line").trim();
  const surface = style.getPropertyValue("--surface").trim();
  return {
    "font.color": text,
    "font.family": style.fontFamily,
    "xaxis.gridcolor": grid,
    "xaxis.linecolor": grid,
    "yaxis.gridcolor": grid,
    "yaxis.linecolor": grid,
    "hoverlabel.bgcolor": surface,
    "hoverlabel.font.color": text,
  };
}

const config = {
  responsive: true,
  displaylogo: false,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
};
const drawn = [];
for (const data of document.querySelectorAll("script[data-chart]")) {
  const place = document.getElementById(data.dataset.chart);
  const figure = JSON.parse(data.textContent);
  Plotly.newPlot(place, figure.data, figure.layout, config);
  drawn.push(place);
}

function theme() {
  for (const place of drawn) Plotly.relayout(place, themed());
}

dark.addEventListener("change", theme);
theme();
