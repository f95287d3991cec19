// The live page: takes the feed's events, keeps the points, fills tiles, tables and charts.

import * as charts from "./charts.js";
import * as control from "./control.js";
import { follow } from "./feed.js";
import { clock, count, duration, element, fixed, n, NONE, percent, rate, table, wide } from "./format.js";
import * as scored from "./scores.js";

const POINTS = 1800; // an hour at one point every two seconds
const TITLES = {
  accuracy: "Accuracy", precision: "Precision", recall: "Recall", f1: "F1", roc_auc: "ROC AUC",
  pr_auc: "PR AUC", log_loss: "Log loss", brier: "Brier score", calibration_error: "Calibration error",
  balanced_accuracy: "Balanced accuracy", macro_f1: "Macro F1", weighted_f1: "Weighted F1", kappa: "Kappa",
  top_2_accuracy: "Top 2 accuracy", no_change_accuracy: "Accuracy of no change", kappa_temporal: "Temporal kappa",
  coverage: "Coverage", width: "Width", mae: "Mean absolute error", rmse: "RMSE", r2: "R²", bias: "Bias",
  hit_10: "Hit rate at 10", hit_20: "Hit rate at 20", mrr: "Mean reciprocal rank", ndcg_10: "NDCG at 10",
};
const LONGEST_S = 86400; // the last bound of the service's histogram

const byId = (id) => document.getElementById(id);
let points = [];
let metrics = [];
let latest = null;
let heardAt = 0;
let said = "";
let audited = null;
const opened = new Set(); // audit records that somebody looks at whole

// ---------------------------------------------------------------- words

function say(text) {
  if (text !== said) byId("announce").textContent = text;
  said = text;
}

function state(text, level) {
  const pill = byId("state");
  if (pill.textContent !== text) say(`Service: ${text}`);
  pill.textContent = text;
  pill.dataset.level = level;
}

function banner(text) {
  byId("banner").textContent = text;
  byId("banner").hidden = !text;
}

function put(name, text) {
  const node = document.querySelector(`[data-value="${name}"]`);
  if (node.textContent !== text) node.textContent = text;
}

// ---------------------------------------------------------------- the parts of the page

// What comes in and what teaches, in the words of the service's kind.
const words = (s) => (s.ranking ? ["lists", "interactions"] : ["events", "labels"]);

function shown(r) {
  put("alerts", count(r.hits));
  put("alert_share", `${percent(r.hits, r.shown)} of the items shown`);
  put("known_items", count(r.items));
  put("known_users", count(r.users));
  put("gone", count(r.items_evicted + r.users_evicted));
  put("shown", count(r.shown));
  put("untaken", count(r.untaken));
}

function tiles(s) {
  const [events, labels] = words(s);
  const sum = (o) => Object.values(o).reduce((a, b) => a + b, 0);
  const dead = sum(s.dead_letters);
  const alarms = s.drift.reduce((a, d) => a + d[4], 0);
  const marked = points.filter((p) => p.drift.length).at(-1);
  put("scored", count(s.scored));
  put("events_per_s", rate(s.events_per_s, events));
  put("step_p50", duration(s.step[0]));
  put("step_p99", `p99 ${duration(s.step[1])}`);
  put("event_latency", s.event[0] < LONGEST_S ? `p50 ${duration(s.event[0])}, p99 ${duration(s.event[1])}` : "more than a day: old events are played back");
  put("alerts", count(s.alerts));
  put("alert_share", `${percent(s.alerts, s.scored)} of the events`);
  put("joined", count(s.labels.joined ?? 0));
  put("labels_per_s", rate(s.labels_per_s, labels));
  put("pending", count(s.pending));
  const bound = s.limits.find((l) => l.name === "pending");
  const share = bound ? `${percent(s.pending, bound.limit)} of the limit` : "";
  put("pending_share", s.let_go ? `${share}, ${count(s.let_go)} let go unlearned` : share);
  put("lag", count(sum(s.lag)));
  put("lag_topics", Object.entries(s.lag).filter(([, v]) => v).map(([k, v]) => `${k} ${count(v)}`).join(", "));
  put("dead", count(dead));
  put("dead_share", `${percent(dead, dead + s.scored)} of what came`);
  put("alarms", count(alarms));
  put("alarm_last", marked ? `last at ${clock(marked.t)}` : "");
  put("threshold", s.threshold === null ? NONE : String(s.threshold));
  put("judged_share", percent(s.judged, s.scored));
  put("matured_share", percent(s.matured, s.scored));
  if (s.ranking) shown(s.ranking);
  byId("matured").value = s.scored ? s.matured / s.scored : 0;
}

// Of one process of many: the version of its members, and of the learner what scorers' examples tell.
function shared(s) {
  const own = s.shared;
  byId("shared").hidden = !own;
  if (!own) return;
  const version = own.number ? `version ${count(own.number)} (${own.digest.slice(0, 12)}), ${duration(own.age_s)} of event time old` : "no version yet";
  const ranks = own.deeds !== null; // then scorers tell of themselves with what users do, and else nothing
  const waits = `${count(own.deeds_ahead)} of ${count(own.deeds)} records that it handed over have not come back yet.`;
  const missed = own.missed ? " Versions are missing: it waits for all that is known." : "";
  byId("shared-note").textContent = own.role === "learner"
    ? `This is the learner of ${own.service}: it learns what scorers hand over and judges their ${ranks ? "rankings; they answer" : "scores"}. It has published ${version}.`
    : `This is a scorer of ${own.service}: the learner's page shows all of them, and quality. It ${ranks ? "answers" : "scores"} by ${version}.${ranks ? ` ${waits}${missed}` : ""}`;
  byId("shared-table").parentElement.hidden = own.role !== "learner";
  const [by, behind, at] = ranks ? ["Version when it last handed over", "Versions since", "Newest event then"] : ["Scores by version", "Behind", "Newest event"];
  table("shared-table", ["Scorer", "Partitions", n(by), n(behind), n(ranks ? "Records not read yet" : "Examples not read yet"), n(at)],
    own.scorers.map((c) => [c.name, c.partitions.join(", "), n(count(c.version)), n(count(own.number - c.version)), n(count(c.waiting)),
      n(c.watermark_ms ? new Date(c.watermark_ms).toISOString().slice(0, 16).replace("T", " ") : NONE)]));
}

function qualityTable(s) {
  const [held, title] = s.task === "binary" ? ["effective_positives", s.classes[1]] : ["effective_samples", "Outcomes"];
  const row = (name, values) => [name, ...metrics.map((m) => n(fixed(values[m]))), n(count(values[held]))];
  const rows = Object.entries(s.quality).map(([name, values]) => row(name, values));
  if (Object.keys(s.matured_quality).length) rows.push(row("ensemble, matured", s.matured_quality));
  table("quality-table", ["", ...metrics.map((m) => n(TITLES[m] ?? m)), n(title)], rows);
}

const capital = (word) => word[0].toUpperCase() + word.slice(1);

function flowTable() {
  const [events, labels] = words(latest);
  const [share, title] = latest.ranking ? ["fallback_share", "Fallbacks"] : ["alert_share", "Alerts"];
  const rows = points.slice(-30).reverse().map((p) => [
    clock(p.t), n(rate(p.events_per_s, "")), n(rate(p.labels_per_s, "")), n(duration(p.step[0])), n(duration(p.step[1])),
    n(p[share] === null ? NONE : percent(p[share], 1)),
  ]);
  table("flow-table", ["Time", n(capital(events)), n(capital(labels)), n("Step p50"), n("Step p99"), n(title)], rows);
}

function scoresTable(s) {
  const names = charts.bins(s.scores.bounds);
  table("scores-table", ["Score", ...s.classes.map(n), n("All scored")],
    names.map((name, i) => [name, ...s.scores.truth.map((c) => n(count(c[i]))), n(count(s.scores.all[i]))]));
}

function membersTable(s) {
  const roles = [...new Set(Object.values(s.parameters).flatMap(Object.keys))].sort();
  const total = (held) => Object.values(held).reduce((a, b) => a + b, 0);
  const rows = s.members.map((m) => {
    const held = s.parameters[m.name] ?? {};
    const names = [m.up ? (m.frozen ? "frozen" : "up") : "down", ...(m.stale ? ["stale"] : [])];
    const kind = m.up ? (m.frozen || m.stale ? "wait" : "good") : "bad";
    const status = { text: names.join(", "), kind };
    return [m.name, m.type, status, n(fixed(m.weight, 3)), n(count(m.updates)), n(count(m.errors)),
      ...roles.map((r) => n(count(held[r] ?? 0))), n(count(total(held)))];
  });
  const members = s.members.map((m) => m.name);
  for (const all of s.ranking ? s.learners.filter((name) => !members.includes(name)) : ["ensemble"]) {
    const own = s.parameters[all];
    if (own) rows.push([all, s.combine, "", n(""), n(""), n(""), ...roles.map((r) => n(count(own[r] ?? 0))), n(count(total(own)))]);
  }
  table("members-table", ["Member", "Type", "State", n("Weight"), n(`${capital(words(s)[1])} learned`), n("Errors"),
    ...roles.map((r) => n(capital(r))), n("All parameters")], rows);
  const stale = s.members.filter((m) => m.stale).map((m) => m.name);
  byId("stale-note").hidden = !stale.length;
  byId("stale-note").replaceChildren(
    `${stale.join(", ")}: learned labels that were corrected since. `,
    element("code", "millrace control rebuild CONFIG"),
    " lets what is stale learn the history anew, beside the service.",
  );
}

function stage(s) {
  for (const node of document.querySelectorAll("[data-stage]")) node.hidden = !s.stage;
  if (!s.stage) return;
  put("leads", s.stage.leads ? "the members'" : "the recommender's");
  put("stage_judged", count(s.stage.judged));
  const of = s.stage.metrics;
  table("stage-table", ["Scorer", ...of.map((m) => n(TITLES[m]))],
    Object.entries(s.stage.quality).map(([name, q]) => [name, ...of.map((m) => n(fixed(q[m])))]), "Nothing judged yet.");
}

function limits(s) {
  byId("limits").replaceChildren(...s.limits.map(({ name, used, limit }) => {
    const share = limit ? used / limit : 0;
    const words = `${count(used)} of ${count(limit)}`;
    return element("div", [
      element("span", name.replaceAll("_", " ")), element("span", words, { class: "n" }),
      element("progress", [], { max: 1, value: share, "aria-label": `${name}: ${words}`, "data-level": share > 0.8 ? "bad" : "" }),
    ]);
  }));
}

function whole(record) {
  const node = element("details", [element("summary", record.told), element("pre", JSON.stringify(record.raw, null, 2))]);
  node.open = opened.has(record.seq);
  node.addEventListener("toggle", () => (node.open ? opened.add(record.seq) : opened.delete(record.seq)));
  return node;
}

function audit(s) {
  // Drawn anew only when there is something new: somebody may be reading.
  const newest = s.audit.at(-1)?.seq;
  if (newest === audited) return;
  audited = newest;
  table("audit-table", [n("No."), "Time", "Event", "Of", "What"], [...s.audit].reverse().map((r) => [
    n(count(r.seq)), clock(r.at), r.inside ? r.event : { text: r.event, kind: "bad" }, r.model ?? "", whole(r),
  ]));
}

function lists(s) {
  table("drift-table", ["Signal", "Detector", n("Statistic"), n("Threshold"), n("Alarms")],
    s.drift.map(([d, signal, at, limit, alarms]) => [signal, d.replace("_", "-"), n(fixed(at, 3)), n(fixed(limit, 3)), n(count(alarms))]));
  byId("challengers").hidden = !s.challengers.length;
  table("challengers-table", ["Of", n("Number"), "Made of", n("Labels"), n("Loss, member"), n("Loss, challenger"), n("Evidence"), n("Against"), n("Needed"), n("Divergence"), n("Alert alike"), n("Alerts, member only"), n("Alerts, challenger only"), ""],
    s.challengers.map((c) => [c.member, n(c.number), wide(madeOf(c.spec)), n(count(c.labels)), n(fixed(c.loss)), n(fixed(c.challenger_loss)), n(fixed(c.evidence, 2)), n(fixed(c.against, 2)), n(fixed(c.needed, 1)), n(fixed(c.divergence)), n(fixed(c.agreement)), n(count(c.alerts_member)), n(count(c.alerts_challenger)), c.proposed ? "proposed" : ""]));
  byId("guard").hidden = !s.guard.length;
  table("guard-table", ["Of", "Last good version", n("Labels"), n("Loss"), n("Loss, last good"), n("Evidence"), n("Needed"), ""],
    s.guard.map((g) => [g.member, g.version.slice(0, 12), n(count(g.labels)), n(fixed(g.loss)), n(fixed(g.last_good_loss)), n(fixed(g.evidence, 2)), n(fixed(g.needed, 1)), g.proposed ? "rollback proposed" : ""]));
  byId("dead-reasons").textContent = Object.entries(s.dead_letters).map(([k, v]) => `${k.replaceAll("_", " ")} ${count(v)}`).join(" · ");
  table("dead-table", ["Reason", "Where", "What was wrong"], [...s.last_dead_letters].reverse().map((d) => [
    d.reason.replaceAll("_", " "), `${d.topic}/${d.partition} @ ${d.offset}`, wide(d.error),
  ]), "None.");
}

// A challenger's definition in words.
function madeOf({ type, ...rest }) {
  if (rest.members) return `${rest.combine} of ${rest.members.map((m) => m.name).join(", ")}`;
  if (!type) return "as its member, another seed";
  return [type, ...Object.entries(rest).map(([key, value]) => `${key} ${JSON.stringify(value)}`)].join(", ");
}

function drawCharts() {
  if (document.hidden || !latest) return;
  const i = Math.max(0, metrics.indexOf(byId("metric").value));
  charts.quality(points, i, TITLES[metrics[i]] ?? "");
  charts.flow(points, words(latest));
  charts.weights(points);
  charts.parameters(points);
  if (latest.ranking) {
    charts.catalogue(points);
    if (latest.stage) charts.stage(points, latest.stage.metrics.indexOf(byId("stage-metric").value), TITLES[byId("stage-metric").value]);
  } else {
    charts.alerts(points);
    charts.scores(latest.scores, latest.classes, byId("scale").value);
  }
  flowTable();
}

// ---------------------------------------------------------------- events

// Points not known yet; alarms among them are said, unless they are of before the page was opened.
function merge(fresh, old = false) {
  const known = new Set(points.map((p) => p.t));
  const added = fresh.filter((p) => !known.has(p.t));
  const alarms = added.flatMap((p) => p.drift);
  if (alarms.length && points.length && !old) say(`Drift alarm: ${alarms.map(([d, of]) => `${d} on ${of}`).join(", ")}`);
  points = [...points, ...added].sort((a, b) => a.t - b.t);
  if (points.length > POINTS) points = points.filter((p, i) => p.drift.length || i > POINTS / 2 || i % 2);
  return added.length > 0;
}

function history(data) {
  if (merge(data.points, true)) drawCharts();
}

function snapshot(s) {
  const first = latest === null;
  latest = s;
  heardAt = Date.now();
  banner(s.ready ? s.amiss || s.replica || "" : `Not ready: ${s.detail}`);
  byId("controls").hidden = Boolean(s.replica); // it takes no commands
  byId("ask").hidden = true;
  byId("model").textContent = s.model;
  document.title = `${s.model} – Millrace`;
  state(s.state, s.ready ? "good" : "wait");
  metrics = s.metrics;
  if (first) begin();
  const grown = merge(s.points);
  tiles(s);
  shared(s);
  scored.show(s);
  control.offer(s.learners);
  qualityTable(s);
  membersTable(s);
  stage(s);
  scoresTable(s);
  limits(s);
  lists(s);
  audit(s);
  if (grown || first) drawCharts();
}

// With the first numbers: what can be chosen, and the charts once the numbers are on the screen.
function begin() {
  document.body.dataset.task = latest.task;
  byId("metric").replaceChildren(...metrics.map((m) => new Option(TITLES[m] ?? m, m)));
  byId("metric").value = metrics.includes("roc_auc") ? "roc_auc" : metrics[0];
  byId("stage-metric").replaceChildren(...(latest.stage?.metrics ?? []).map((m) => new Option(TITLES[m], m)));
  byId("stage-metric").value = "log_loss";
  byId("new-threshold").value = latest.threshold;
  byId("set-threshold").hidden = latest.threshold === null;
  if (latest.task === "number") {
    byId("new-threshold").removeAttribute("min");
    byId("new-threshold").removeAttribute("max");
  }
  byId("alerting").hidden = latest.threshold === null;
  // Rankings have no such section.
  const of = { binary: "by truth", classes: "of right and wrong predictions", number: "as made" }[latest.task];
  byId("h-scores").textContent = `Scores ${of}`;
  requestAnimationFrame(() => setTimeout(() => charts.load(drawCharts)));
}

const connect = follow("/v1/live", {
  event: (name, data) => ({ history, snapshot })[name]?.(data),
  lost: (why) => {
    state("disconnected", "bad");
    banner(`No connection: ${why}. Trying again; the numbers below are from ${heardAt ? clock(heardAt) : "nowhere yet"}.`);
  },
  token: (refused) => {
    state("token needed", "wait");
    banner(refused ? "The service does not know this token." : "");
    byId("ask").hidden = false;
    byId("token").focus();
  },
});

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  connect(byId("token").value);
  byId("token").value = "";
});

setInterval(() => {
  byId("age").textContent = heardAt ? `updated ${Math.max(0, Math.round((Date.now() - heardAt) / 1000))} s ago` : "";
}, 1000);

// ---------------------------------------------------------------- choices

const dark = window.matchMedia("(prefers-color-scheme: dark)");

function theme() {
  const chosen = localStorage.getItem("millrace-theme");
  const now = chosen ?? (dark.matches ? "dark" : "light");
  document.documentElement.dataset.theme = now;
  byId("theme").setAttribute("aria-pressed", String(now === "dark"));
  drawCharts();
}

byId("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("millrace-theme", now);
  theme();
});
dark.addEventListener("change", theme);
byId("metric").addEventListener("change", drawCharts);
byId("stage-metric").addEventListener("change", drawCharts);
byId("scale").addEventListener("change", drawCharts);
document.addEventListener("visibilitychange", drawCharts);
theme();
