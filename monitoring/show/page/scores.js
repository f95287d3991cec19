// Scored events: the latest, the highest, and one by its id.

import { reason, viewer } from "./feed.js";
import { clock, element, fixed, n, NONE, table, wide } from "./format.js";

const byId = (id) => document.getElementById(id);
let recent = { latest: [], highest: [] };
let members = [];
let predicts = false; // a class, as each member does
let asked = 0;

const heads = () => ["Event", "Scored at", ...(predicts ? ["Prediction"] : []), n("Score"), "Alert", ...members.map((m) => n(m))];
const row = (s) => [
  wide(s.id), clock(s.scored_at), ...(predicts ? [s.prediction ?? NONE] : []), n(fixed(s.score)),
  s.alert ? { text: "alert", kind: "bad" } : NONE,
  ...members.map((m) => n(predicts ? s.members[m] ?? NONE : fixed(s.members[m], 3))),
];

function draw() {
  table("recent-table", heads(), recent[byId("order").value].map(row), "No event scored yet.");
}

export function show(snapshot) {
  recent = snapshot.recent;
  predicts = snapshot.task === "classes";
  members = snapshot.members.map((m) => m.name);
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
