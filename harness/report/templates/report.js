"use strict";

// Unpacks plotly, and draws every chart of the page, in the colours of the page's theme.
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

async function unpack(element) {
  const packed = Uint8Array.from(atob(element.textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

function draw() {
  for (const data of document.querySelectorAll("script[data-chart]")) {
    const place = document.getElementById(data.dataset.chart);
    const figure = JSON.parse(data.textContent);
    Plotly.newPlot(place, figure.data, figure.layout, config);
    drawn.push(place);
    if (data.dataset.linked) link(place, data.dataset.linked);
  }
}

// Charts of one pair over the same steps show the same steps.
const linked = {};
let following = false;

function link(place, group) {
  (linked[group] ??= []).push(place);
  place.on("plotly_relayout", async (change) => {
    const update = horizontal(change);
    if (following || !update) return;
    following = true;
    const others = linked[group].filter((other) => other !== place);
    await Promise.all(others.map((other) => Plotly.relayout(other, { ...update })));
    following = false;
  });
}

function horizontal(change) {
  if ("xaxis.range[0]" in change)
    return { "xaxis.range": [change["xaxis.range[0]"], change["xaxis.range[1]"]] };
  if ("xaxis.range" in change) return { "xaxis.range": change["xaxis.range"] };
  return change["xaxis.autorange"] ? { "xaxis.autorange": true } : null;
}

for (const button of document.querySelectorAll("button[data-log]"))
  button.addEventListener("click", () => {
    const log = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", log);
    const place = document.getElementById(button.dataset.log);
    Plotly.relayout(place, { "yaxis.type": log ? "log" : "linear", "yaxis.autorange": true });
  });

function theme() {
  for (const place of drawn) Plotly.relayout(place, themed());
}

async function main() {
  if (!document.querySelector("script[data-chart]")) return;
  await unpack(document.getElementById("plotly"));
  draw();
  dark.addEventListener("change", theme);
  theme();
  document.body.dataset.drawn = drawn.length;
}

main();
