// Commands of an operator: records on the control topic, by POST /v1/control. Where the service asks
// for a token of scope admin, that is kept in this variable and gone with the page.

import { reason, viewer } from "./feed.js";

const byId = (id) => document.getElementById(id);
let admin = null;
let refused = null;
let known = "";

// What can be frozen; built anew only when they change, so that a choice stays.
export function offer(names) {
  if (names.join("\n") === known) return;
  known = names.join("\n");
  byId("member").replaceChildren(...names.map((name) => new Option(name, name)));
}

async function send(command) {
  const note = byId("control-note");
  const token = admin ?? viewer();
  const headers = { "content-type": "application/json", ...(token ? { authorization: `Bearer ${token}` } : {}) };
  note.textContent = "Sending";
  try {
    const answer = await fetch("/v1/control", { method: "POST", headers, body: JSON.stringify(command) });
    refused = answer.status === 401 || answer.status === 403 ? command : null;
    byId("ask-admin").hidden = refused === null;
    if (refused) byId("admin").focus();
    note.textContent = answer.ok ? "On the control topic; in force from the next step." : await reason(answer);
  } catch {
    note.textContent = "The service does not answer; nothing is known to have been sent.";
  }
}

byId("ask-admin").addEventListener("submit", (event) => {
  event.preventDefault();
  admin = byId("admin").value;
  byId("admin").value = "";
  send(refused);
});
byId("set-threshold").addEventListener("submit", (event) => {
  event.preventDefault();
  send({ command: "set_threshold", threshold: byId("new-threshold").valueAsNumber });
});
byId("set-member").addEventListener("submit", (event) => {
  event.preventDefault();
  send({ command: event.submitter.value, member: byId("member").value });
});
