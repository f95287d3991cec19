// The charts: plotly over the points that app.js keeps. Every chart has a table beside it.
// Its script has 5 MB: it is asked for when the numbers are on the screen.

import { duration, fixed, percent } from "./format.js";

// Okabe and Ito's colours, told apart by colour-blind people too; the ensemble has the text's own.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const CONFIG = { displayModeBar: false, responsive: true };

function theme() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  return { text: of("--text"), quiet: of("--quiet"), line: of("--line"), bad: of("--bad") };
}

function layout(extra = {}) {
  const { quiet, line } = theme();
  const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true };
  const { xaxis, yaxis, ...rest } = extra;
  return {
    margin: { l: 8, r: 12, t: 8, b: 8 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: quiet, size: 12, family: "system-ui, sans-serif" },
    hovermode: "x unified",
    hoverlabel: { bgcolor: getComputedStyle(document.body).backgroundColor },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    xaxis: { ...axis, ...xaxis },
    yaxis: { ...axis, ...yaxis },
    ...rest,
  };
}

let missing = "Charts are loading";

export function load(done) {
  const script = document.createElement("script");
  script.src = "/live/plotly.min.js";
  script.addEventListener("load", done);
  script.addEventListener("error", () => {
    missing = "Charts could not be loaded; see the table";
    done();
  });
  document.head.append(script);
}

const OVER_TIME = { type: "date", tickformat: "%H:%M:%S", nticks: 5, tickangle: 0 };

function draw(id, traces, settings, label) {
  const target = document.getElementById(id);
  target.setAttribute("aria-label", label);
  if (!window.Plotly || !traces.some((t) => t.y.length)) {
    target.classList.add("empty");
    target.textContent = window.Plotly ? "No data yet" : missing;
    return;
  }
  if (target.classList.contains("empty")) {
    target.classList.remove("empty");
    target.textContent = "";
  }
  window.Plotly.react(target, traces, settings, CONFIG);
}

function colour(name, names) {
  if (name === "ensemble") return { color: theme().text, width: 3 };
  const i = names.filter((m) => m !== "ensemble").indexOf(name);
  return { color: COLOURS[i % COLOURS.length], dash: DASHES[Math.floor(i / COLOURS.length) % 4], width: 1.75 };
}

const times = (points) => points.map((p) => new Date(p.t));
const lines = (points, names, value) => names.map((name) => ({
  name, x: times(points), y: points.map((p) => value(p, name) ?? null), mode: "lines", line: colour(name, names),
}));

// Alarms of one moment share a mark; those of the ensemble itself have a line too.
function marks(points, ensemble = "ensemble") {
  const { bad } = theme();
  const found = points.filter((p) => p.drift.length);
  const shapes = found.filter((p) => p.drift.some(([, of]) => of === ensemble)).map((p) => ({
    type: "line", x0: new Date(p.t), x1: new Date(p.t), y0: 0, y1: 1, yref: "paper",
    line: { color: bad, width: 1, dash: "dot" },
  }));
  const trace = {
    name: "drift alarm", mode: "markers", x: times(found), y: found.map(() => 1), yaxis: "y2",
    marker: { symbol: "triangle-down", size: 9, color: bad },
    text: found.map((p) => p.drift.map(([d, s]) => `${d} on ${s}`).join("<br>")),
    hovertemplate: "%{text}<extra></extra>",
  };
  return { shapes, traces: found.length ? [trace] : [] };
}

export function quality(points, metric, title) {
  const i = metric;
  const names = Object.keys(points.at(-1)?.quality ?? {});
  const drift = marks(points);
  const last = points.at(-1);
  const told = names.map((m) => `${m} ${fixed(last.quality[m][i])}`).join(", ");
  draw("quality", [...lines(points, names, (p, m) => p.quality[m]?.[i]), ...drift.traces], layout({
    xaxis: OVER_TIME,
    yaxis: { title: { text: title }, tickformat: ".3~g" },
    yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
    shapes: drift.shapes,
  }), `${title} over time, with ${drift.shapes.length} drift alarms of the ensemble; latest: ${told}`);
}

export function flow(points, [events, labels]) {
  const series = [[events, "events_per_s"], [labels, "labels_per_s"]];
  const last = points.at(-1);
  draw("flow", series.map(([name, key], i) => ({
    name, x: times(points), y: points.map((p) => p[key]), mode: "lines", line: { color: COLOURS[i] },
  })), layout({ xaxis: OVER_TIME, yaxis: { title: { text: "per second" }, rangemode: "tozero" } }),
  last ? `Latest: ${last.events_per_s} ${events} and ${last.labels_per_s} ${labels} a second` : "No data yet");
  draw("latency", ["p50", "p99"].map((name, i) => ({
    name, x: times(points), y: points.map((p) => (p.step[i] === null ? null : p.step[i] * 1000)),
    mode: "lines", line: { color: COLOURS[i + 2] },
  })), layout({ xaxis: OVER_TIME, yaxis: { title: { text: "step, ms" }, rangemode: "tozero" } }),
  last ? `Latest step: median ${duration(last.step[0])}, 99th percentile ${duration(last.step[1])}` : "No data yet");
}

export function alerts(points) {
  const last = points.filter((p) => p.alert_share !== null).at(-1);
  draw("alerts", [{
    name: "alerts", x: times(points), y: points.map((p) => p.alert_share), mode: "lines",
    line: { color: COLOURS[1] },
  }], layout({
    // Shares of few events need labels of any width: margins that follow them would never rest.
    margin: { l: 64, r: 12, t: 8, b: 8 },
    xaxis: OVER_TIME,
    yaxis: { title: { text: "of scored events" }, tickformat: ".3~%", rangemode: "tozero", automargin: false },
  }),
  last ? `Latest: ${percent(last.alert_share, 1)} of the events alert` : "No data yet");
}

export function catalogue(points) {
  const names = { coverage: "coverage", top_10: "top 10", fallback_share: "fallbacks" };
  const last = points.at(-1);
  const told = Object.entries(names).map(([key, name]) => `${name} ${percent(last?.[key] ?? 0, 1)}`).join(", ");
  draw("catalogue", Object.entries(names).map(([key, name], i) => ({
    name, x: times(points), y: points.map((p) => p[key]), mode: "lines", line: { color: COLOURS[i] },
  })), layout({ xaxis: OVER_TIME, yaxis: { title: { text: "share" }, tickformat: ".3~%", rangemode: "tozero" } }),
  `Latest: ${told}`);
}

export function weights(points) {
  const names = Object.keys(points.at(-1)?.weights ?? {});
  const told = names.map((m) => `${m} ${fixed(points.at(-1).weights[m], 3)}`).join(", ");
  draw("weights", lines(points, names, (p, m) => p.weights[m]), layout({
    xaxis: OVER_TIME, yaxis: { title: { text: "weight" } },
  }), `Weights over time; latest: ${told}`);
}

// The stretches of points in which members put the candidates in order.
function led(points) {
  const found = [];
  points.forEach((p, i) => {
    if (!p.stage.leads) return;
    if (i && points[i - 1].stage.leads) found.at(-1).x1 = new Date(p.t);
    else found.push({ x0: new Date(p.t), x1: new Date(p.t) });
  });
  return found.map((span) => ({
    type: "rect", ...span, y0: 0, y1: 1, yref: "paper", layer: "below", line: { width: 0 },
    fillcolor: COLOURS[2], opacity: 0.15,
  }));
}

export function stage(points, metric, title) {
  const known = points.filter((p) => p.stage);
  const last = known.at(-1)?.stage;
  const names = Object.keys(last?.quality ?? {});
  const told = names.map((m) => `${m} ${fixed(last.quality[m][metric])}`).join(", ");
  const own = known.map((p) => ({ ...p, drift: p.drift.filter(([, of]) => of.endsWith(" over candidates")) }));
  const drift = marks(own, "ensemble over candidates");
  draw("stage-quality", [...lines(known, names, (p, m) => p.stage.quality[m]?.[metric]), ...drift.traces], layout({
    xaxis: OVER_TIME,
    yaxis: { title: { text: title }, tickformat: ".3~g" },
    yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
    shapes: [...led(known), ...drift.shapes],
  }), `${title} of members over candidates, with ${drift.shapes.length} drift alarms of their ensemble; latest: ${told}`);
  const weighed = Object.keys(last?.weights ?? {});
  draw("stage-weights", lines(known, weighed, (p, m) => p.stage.weights[m]), layout({
    xaxis: OVER_TIME, yaxis: { title: { text: "weight" } },
  }), `Weights over candidates; latest: ${weighed.map((m) => `${m} ${fixed(last.weights[m], 3)}`).join(", ")}`);
}

export function parameters(points) {
  const names = Object.keys(points.at(-1)?.parameters ?? {});
  const told = names.map((m) => `${m} ${points.at(-1).parameters[m]}`).join(", ");
  draw("parameters", lines(points, names, (p, m) => p.parameters[m]), layout({
    xaxis: OVER_TIME, yaxis: { type: "log", title: { text: "scalars" }, exponentformat: "SI", dtick: 1 },
  }), `Parameters over time; latest: ${told}`);
}

export const bins = (bounds) => [...bounds.map((b) => `≤ ${short(b)}`), `> ${short(bounds.at(-1))}`];
const short = (x) => Number(x.toPrecision(6)); // 0.3, not 0.30000000000000004

export function scores(made, classes, scale) {
  const { bounds } = made;
  // Numbers have no truth to be told apart by: all of them are drawn.
  const [names, truth] = classes.length ? [classes, made.truth] : [["all scored"], [made.all]];
  const title = document.getElementById("h-scores").textContent;
  const totals = truth.map((counts) => counts.reduce((a, b) => a + b, 0));
  const known = totals.some((t) => t > 0);
  draw("scores", names.map((name, y) => ({
    name, type: "bar", x: bins(bounds),
    y: known ? truth[y].map((c) => (c ? c / totals[y] : null)) : [],
    marker: { color: COLOURS[y] }, hovertemplate: "%{y:.2%}",
  })), layout({
    barmode: "group",
    bargap: 0.15,
    xaxis: { type: "category", title: { text: "score" }, tickangle: -60 },
    yaxis: { type: scale, title: { text: classes.length ? "share of the class" : "share of all" }, tickformat: ".3~%", dtick: scale === "log" ? 1 : undefined },
  }), classes.length
    ? `${title}; over a half: ${truth.map((counts, y) => `${percent(above(counts, bounds), totals[y])} of ${names[y]}`).join(", ")}`
    : `${title}: ${totals[0]}`);
}

const above = (counts, bounds) => counts.slice(bounds.indexOf(0.5) + 1).reduce((a, b) => a + b, 0);
