// Scored events: the latest, the highest, and one by its id. Of a service that ranks: lists.

import { reason, viewer } from "./feed.js";
import { clock, count, element, fixed, n, NONE, table, wide } from "./format.js";

const byId = (id) => document.getElementById(id);
let recent = { latest: [], highest: [] };
let members = [];
let predicts = false; // a class, as each member does
let ranks = false;
let told = false; // reasons, with any score shown
let asked = 0;

const FIRST = 5; // items of a list

const heads = () => (ranks ? listHeads : scoreHeads());
const row = (s) => (ranks ? listRow(s) : scoreRow(s));

const listHeads = ["Request", "At", "For", "First items", n("Items"), "By", "Left out"];
const listRow = (s) => [
  wide(s.id), clock(s.scored_at), s.user ?? s.session ?? "nobody", wide(s.items.slice(0, FIRST).map((i) => i.id).join(", ") || NONE),
  n(count(s.count ?? s.items.length)), s.fallback ? { text: "what is popular", kind: "wait" } : "all members",
  Object.entries(s.left_out).map(([why, items]) => `${why.replaceAll("_", " ")} ${count(items)}`).join(", ") || NONE,
];

const why = (s) => wide((s.reasons?.top ?? []).map((t) => t.text ?? t.reason).join(", ") || NONE);
const scoreHeads = () => ["Event", "Scored at", ...(predicts ? ["Prediction"] : []), n("Score"), "Alert", ...(told ? ["Why"] : []), ...members.map((m) => n(m))];
const scoreRow = (s) => [
  wide(s.id), clock(s.scored_at), ...(predicts ? [s.prediction ?? NONE] : []), n(fixed(s.score)),
  s.alert ? { text: "alert", kind: "bad" } : NONE, ...(told ? [why(s)] : []),
  ...members.map((m) => n(predicts ? s.members[m] ?? NONE : fixed(s.members[m], 3))),
];

function draw() {
  table("recent-table", heads(), recent[byId("order").value].map(row), ranks ? "No list answered yet." : "No event scored yet.");
}

export function show(snapshot) {
  recent = snapshot.recent;
  predicts = snapshot.task === "classes";
  ranks = snapshot.task === "ranking";
  members = snapshot.members.map((m) => m.name);
  told = [...recent.latest, ...recent.highest].some((s) => s.reasons);
  draw();
}

async function find(event) {
  event.preventDefault();
  const mine = ++asked;
  const id = byId("event-id").value;
  const token = viewer();
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  let said = "";
  let found = null;
  try {
    const answer = await fetch(`/v1/scores/${encodeURIComponent(id)}`, { headers, cache: "no-store" });
    if (answer.ok) found = await answer.json();
    else said = await reason(answer);
  } catch {
    said = "The service does not answer.";
  }
  if (mine !== asked) return;
  byId("found-note").textContent = said;
  byId("found").hidden = found === null;
  if (found === null) return;
  table("found-table", heads(), [row(found)]);
  byId("found-raw").replaceChildren(element("summary", "The whole record"), element("pre", JSON.stringify(found, null, 2)));
}

byId("order").addEventListener("change", draw);
byId("lookup").addEventListener("submit", find);
