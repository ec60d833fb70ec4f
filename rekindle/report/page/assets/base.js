// What the other parts share. All text goes into the page as text, never as HTML: a completion may hold anything.
const state = { doc: JSON.parse(document.getElementById("data").textContent) };

function el(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  for (const child of children.flat(Infinity)) if (child != null) node.append(child);
  return node;
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function shown(value) {
  if (value == null) return "-";
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
}

function tableOf(table) {
  const numeric = table.head.map((_, i) => table.rows.length > 0 && table.rows.every((row) => isNumber(row[i])));
  const head = el("tr", {}, table.head.map((text, i) => el("th", { scope: "col", class: numeric[i] && "number" }, text)));
  const rows = table.rows.map((row) =>
    el("tr", {}, row.map((cell, i) => el("td", { class: numeric[i] && "number" }, shown(cell)))));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": table.title },
    el("table", {}, el("caption", {}, table.title), el("thead", {}, head), el("tbody", {}, rows)));
}

function isNumber(cell) {
  return typeof cell === "number" || /^[-+]?[0-9.]+%?$/.test(String(cell));
}

// Text with `code` in it.
function prose(text) {
  return text.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));
}

function option(value, text) {
  return el("option", { value }, text);
}

function setTheme(name, charts) {
  document.documentElement.dataset.theme = name;
  const button = document.getElementById("theme");
  button.setAttribute("aria-pressed", String(name === "dark"));
  if (charts) charts();
}
