// A response token by token: coloured by a number, differing ones marked, read by arrow keys.
const KINDS = {
  none: { name: "nothing" },
  entropy: { name: "entropy", key: "e", unit: "nats" },
  advantage: { name: "advantage", key: "a", unit: "" },
  ratio: { name: "ratio to the sampling policy", key: "q", unit: "" },
  logp: { name: "log-prob", key: "l", unit: "nats" },
};
const STRONGEST = 0.45; // of the background colour: text keeps its contrast

function wordsOf(row) {
  const words = row.shelf.words;
  return row.t ? row.t.map((i) => words[i]) : (row.text || "").split(/(?<=\s)/);
}

function numberAt(row, kind, i) {
  const key = KINDS[kind].key;
  if (!key) return null;
  if (row[key]) return row[key][i] == null ? null : row[key][i] / state.doc.browser.scale;
  return kind === "advantage" && row.ad != null ? row.ad : null;
}

function colourOf(kind, value, top) {
  if (value == null) return null;
  const strength = (share) => Math.sqrt(Math.min(1, Math.max(0, share))) * STRONGEST;
  if (kind === "entropy") return ["--hot", strength(value / top)];
  if (kind === "logp") return ["--hot", strength(-value / top)];
  const from = kind === "ratio" ? Math.log(Math.max(value, 1e-6)) : value;
  return [from >= 0 ? "--cold" : "--hot", strength(Math.abs(from) / top)];
}

function topOf(kind, rows) {
  if (kind === "ratio") return Math.log(1.5);
  let top = 0;
  for (const row of rows) for (let i = 0; i < wordsOf(row).length; i++) top = Math.max(top, Math.abs(numberAt(row, kind, i) || 0));
  return top || 1;
}

// Places of `a` that are in no longest common subsequence with `b`. Too long a pair is not compared, and that is said.
function differing(a, b) {
  if (a.length * b.length > 4e6) return null;
  const width = b.length + 1, best = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      best[i * width + j] = a[i] === b[j] ? best[(i + 1) * width + j + 1] + 1 : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
  const found = new Set();
  let i = 0, j = 0;
  while (i < a.length) {
    if (j < b.length && a[i] === b[j]) { i++; j++; }
    else if (j < b.length && best[i * width + j + 1] >= best[(i + 1) * width + j]) j++;
    else found.add(i++);
  }
  return found;
}

function told(row, i, word) {
  const parts = ["token " + (i + 1) + " " + JSON.stringify(word)];
  for (const kind of ["entropy", "logp", "advantage", "ratio"]) {
    const value = numberAt(row, kind, i);
    if (value != null) parts.push(KINDS[kind].name + " " + shown(value));
  }
  return parts.join(", ");
}

function tokensOf(row, kind, top, differs, name) {
  const words = wordsOf(row), marks = new Set(row.m || []);
  const line = el("p", { class: "facts", role: "status" });
  const box = el("div", { class: "tokens", tabindex: "0", role: "group", "aria-label": name + ": arrow keys read its tokens" });
  let here = -1;
  const go = (i) => {
    if (here >= 0 && box.children[here]) box.children[here].classList.remove("here");
    here = Math.min(Math.max(i, 0), words.length - 1);
    if (!box.children[here]) return;
    box.children[here].classList.add("here");
    line.textContent = told(row, here, words[here]);
  };
  words.forEach((word, i) => {
    const span = el("span", { title: told(row, i, word), class: [differs && differs.has(i) && "differs", marks.has(i) && "echo"].filter(Boolean).join(" ") }, word);
    const colour = colourOf(kind, numberAt(row, kind, i), top);
    if (colour) span.style.backgroundColor = "rgba(" + css(colour[0]) + ", " + colour[1].toFixed(3) + ")";
    span.addEventListener("click", () => go(i));
    box.append(span);
  });
  box.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) { go(here + step); event.preventDefault(); }
  });
  return [box, line];
}
