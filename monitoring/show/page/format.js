// Numbers, durations and times as people read them; small helpers to build tables.

const whole = new Intl.NumberFormat("en-US");
const compact = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3 });
export const NONE = "–";

export const count = (n) => (n === null || n === undefined ? NONE : whole.format(Math.round(n)));
export const rate = (n, what) => `${n < 10 ? compact.format(n) : whole.format(Math.round(n))} ${what}/s`;
export const fixed = (x, digits = 4) => (x === null || x === undefined ? NONE : x.toFixed(digits));

export function percent(part, total) {
  if (!total) return NONE;
  const share = (100 * part) / total;
  return `${share > 0 && share < 10 ? compact.format(share) : share.toFixed(0)} %`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 1) return `${compact.format(seconds * 1000)} ms`;
  if (seconds < 120) return `${compact.format(seconds)} s`;
  if (seconds < 7200) return `${compact.format(seconds / 60)} min`;
  if (seconds < 172800) return `${compact.format(seconds / 3600)} h`;
  return `${compact.format(seconds / 86400)} d`;
}

export const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

export function element(name, content, attributes = {}) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...[content].flat());
  return node;
}

// Fill a table. A cell is a text, a node, or {text, kind}: "n" right-aligned, "text" wide, "good" or "bad".
export function table(id, heads, rows, empty = "Nothing yet.") {
  const target = document.getElementById(id);
  const head = element("tr", heads.map((h) => cell("th", h, { scope: "col" })));
  const body = rows.map(([first, ...rest]) => element("tr", [
    cell("th", first, { scope: "row" }), ...rest.map((c) => cell("td", c)),
  ]));
  if (!rows.length) body.push(element("tr", element("td", empty, { colspan: heads.length })));
  target.replaceChildren(element("thead", head), element("tbody", body));
}

function cell(name, content, attributes = {}) {
  if (content instanceof Node || typeof content !== "object") return element(name, content instanceof Node ? content : String(content), attributes);
  const { text, kind } = content;
  if (kind === "n" || kind === "text") return element(name, text, { ...attributes, class: kind });
  return element(name, element("span", text, { class: "badge", "data-level": kind }), attributes);
}

export const n = (text) => ({ text, kind: "n" });
export const wide = (text) => ({ text, kind: "text" });
