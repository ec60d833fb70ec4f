// The rollout browser: filter, pick two, see them side by side, follow a prompt over the steps.
const PAGE = 12;
// What is chosen, by names that stay (a, b: the rows themselves): places in the lists differ after every step that comes.
const view = { run: "", step: "", prompt: "", verdict: "", low: "", high: "", sort: "step", colour: "entropy", page: 0, a: null, b: null };
const parts = {};

// A row knows its names and its words, so that a picked one can be shown after the page has no more room for it.
function adopt(row, i) {
  if (row.key) return;
  const { runs, browser } = state.doc;
  Object.defineProperty(row, "shelf", { value: browser });
  row.run = runs[row.r].name;
  row.prompt = browser.prompts[row.p];
  row.asked = JSON.stringify([row.prompt.id, row.prompt.text]);
  row.key = JSON.stringify([row.run, row.s, row.u == null ? "row " + i : row.u]);
}

function judged(row) {
  if (row.ok == null) return "not judged";
  return row.ok ? "right" : "wrong";
}

function meanOf(row) {
  const known = (row.e || []).filter((v) => v != null);
  return known.length ? known.reduce((sum, v) => sum + v, 0) / known.length / state.doc.browser.scale : null;
}

function matching() {
  const found = state.doc.browser.rows.filter((row) =>
    (view.run === "" || row.run === view.run) && (view.step === "" || row.s === Number(view.step)) &&
    (view.prompt === "" || row.asked === view.prompt) &&
    (view.verdict === "" || row.ok === (view.verdict === "right")) &&
    (view.low === "" || row.sc >= Number(view.low)) && (view.high === "" || row.sc <= Number(view.high)));
  const by = { step: (row) => row.s, score: (row) => -(row.sc || 0), entropy: (row) => -(meanOf(row) || 0), length: (row) => -wordsOf(row).length };
  return found.sort((x, y) => by[view.sort](x) - by[view.sort](y) || inOrder(x, y));
}

function inOrder(x, y) {
  return x.s - y.s || x.r - y.r || (x.u != null && y.u != null ? x.u - y.u : x.p - y.p);
}

function select(name, label) {
  const renew = () => fillForm("blur");
  const box = el("select", { name, on: { change: () => change(name, box.value), blur: renew, pointerdown: renew } });
  return el("label", {}, label, box);
}

function number(name, label) {
  const box = el("input", { name, type: "number", step: "any", on: { change: () => change(name, box.value) } });
  return el("label", {}, label, box);
}

function change(name, value) {
  view[name] = value;
  if (name !== "colour") view.page = 0;
  drawBrowser(name);
}

function short(id, text) {
  return id + ": " + text.replace(/\s+/g, " ").slice(0, 60);
}

// What can be chosen: name -> pairs of a value and its text.
function choices() {
  const rows = [...state.doc.browser.rows].sort(inOrder);
  const told = (pairs) => [["", "all"], ...new Map(pairs)];
  return {
    run: told(state.doc.runs.map((run) => [run.name, run.name])),
    step: told(rows.map((row) => [String(row.s), String(row.s)])),
    prompt: told(rows.map((row) => [row.asked, short(row.prompt.id, row.prompt.text)])),
    verdict: told([["right", "right"], ["wrong", "wrong"]]),
    sort: ["step", "score", "entropy", "length"].map((name) => [name, name]),
    colour: Object.entries(KINDS).map(([key, kind]) => [key, kind.name]),
  };
}

// A list that is open, or a number that is being written, is left alone until the reader is done with it.
function fillForm(changed) {
  const busy = (box) => changed === "news" && box === document.activeElement;
  for (const [name, pairs] of Object.entries(choices())) {
    const box = parts.form.elements[name], chosen = view[name];
    if (!box || busy(box)) continue;
    if (!pairs.some(([value]) => value === chosen)) pairs.push([chosen, (name === "prompt" ? short(...JSON.parse(chosen)) : chosen) + " (no longer here)"]);
    put(box, pairs, () => pairs.map(([value, text]) => option(value, text)));
    box.value = chosen;
  }
  if (changed !== "news" && changed !== "blur") for (const name of ["low", "high"]) parts.form.elements[name].value = view[name];
}

function makeForm() {
  return el("form", { class: "filters", "aria-label": "Filter the rollouts", on: { submit: (event) => event.preventDefault() } },
    select("step", "step"), select("prompt", "prompt"), select("verdict", "verdict"), number("low", "reward from"), number("high", "reward to"),
    select("sort", "order"), select("colour", "colour tokens by"));
}

function pick(row, side) {
  const where = (state.doc.runs.length > 1 ? row.run + ", " : "") + "step " + row.s + ", " + row.prompt.id + ", " + judged(row);
  const which = row.u == null ? "row " + (state.doc.browser.rows.indexOf(row) + 1) : "response " + row.u;
  return el("button", { type: "button", "data-key": side + row.key, "aria-pressed": String(view[side] !== null && view[side].key === row.key),
    "aria-label": "show on the " + (side === "a" ? "left" : "right") + ": " + where + ", " + which,
    on: { click: () => { view[side] = row; drawBrowser("pick"); } } }, side.toUpperCase());
}

function drawList(found) {
  const part = found.slice(view.page * PAGE, view.page * PAGE + PAGE), several = state.doc.runs.length > 1;
  const head = ["show", ...(several ? ["run"] : []), "step", "prompt", "verdict", "score", "advantage", "entropy", "response"];
  const cells = part.map((row) => [...(several ? [row.run] : []), row.s, row.prompt.id, judged(row),
    shown(row.sc), shown(row.ad), shown(meanOf(row)), wordsOf(row).slice(0, 80).join("")]);
  put(parts.caption, found.length + " of " + state.doc.browser.rows.length + " rollouts", () => [found.length + " of " + state.doc.browser.rows.length + " rollouts"]);
  put(parts.head, head, () => [el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))]);
  const picked = [view.a, view.b].map((row) => row && row.key);
  refocused(parts.body, () => parts.list, () => put(parts.body, [part.map((row) => row.key), cells, picked], () => part.map((row, i) =>
    el("tr", {}, [el("span", { class: "pick" }, pick(row, "a"), " ", pick(row, "b")), ...cells[i].slice(0, -1), el("span", { class: "clip" }, cells[i].at(-1))]
      .map((cell) => el("td", {}, cell))))));
}

function turn(text, by) {
  const act = (event) => { if (event.currentTarget.getAttribute("aria-disabled") !== "true") { view.page += by; drawBrowser("page"); } };
  return el("button", { type: "button", on: { click: act } }, text);
}

function drawPager(pages) {
  parts.earlier.setAttribute("aria-disabled", String(view.page === 0));
  parts.later.setAttribute("aria-disabled", String(view.page + 1 >= pages));
  parts.place.textContent = "page " + (view.page + 1) + " of " + pages;
}

function factsOf(row, here) {
  const facts = ["step " + row.s, judged(row), "score " + shown(row.sc)];
  if (row.ad != null) facts.push("advantage " + shown(row.ad));
  if (row.an != null) facts.push("answer " + row.an);
  if (row.lb != null) facts.push("label " + row.lb);
  if (row.f) facts.push("ended by " + row.f);
  if (!here) facts.push("no longer among the rollouts of this page");
  return facts;
}

function sample(row, side, other, top, here) {
  const name = side === "a" ? "A" : "B", facts = factsOf(row, here);
  const differs = other ? differing(wordsOf(row), wordsOf(other)) : null;
  if (other && !differs) facts.push("too long to compare token by token");
  const follow = el("button", { type: "button", "data-key": "follow" + side, "aria-label": "This prompt over the steps (" + name + ")", on: { click: () => { Object.assign(view, { prompt: row.asked, step: "", verdict: "", low: "", high: "", sort: "step", page: 0 }); drawBrowser("follow"); } } }, "This prompt over the steps");
  const [tokens, line] = tokensOf(row, view.colour, top, differs, "response " + name);
  Object.assign(tokens.dataset, { key: "tokens" + side, row: row.key });
  return el("article", { class: "sample", "aria-label": "sample " + name }, el("h3", {}, name + ": " + row.prompt.id + (state.doc.runs.length > 1 ? ", " + row.run : "")),
    el("p", { class: "facts" }, facts.join("; ")), el("div", { class: "prompt", tabindex: "0", role: "region", "data-key": "prompt" + side, "aria-label": "prompt of " + name }, row.prompt.text),
    tokens, line, follow);
}

// The two samples; made anew where they are others, with the token that was read where they are the same.
function drawPair(pair, top, here) {
  const told = pair.map(([side, row]) => [side, { ...row, r: 0, p: 0, t: wordsOf(row) }, here(row)]);
  const read = new Map([...parts.pair.querySelectorAll(".tokens")].map((box) => [box.dataset.key + box.dataset.row, [...box.children].findIndex((span) => span.classList.contains("here"))]));
  const make = () => pair.map(([side, row], i) => sample(row, side, pair.length === 2 ? pair[1 - i][1] : null, top, here(row)));
  refocused(parts.pair, () => parts.list, () => {
    if (!put(parts.pair, [told, view.colour, top, document.documentElement.dataset.theme, state.doc.runs.length > 1], make)) return;
    parts.legend.replaceChildren(legend(top, pair.map(([, row]) => row)));
    for (const box of parts.pair.querySelectorAll(".tokens")) {
      const place = read.get(box.dataset.key + box.dataset.row);
      if (place >= 0 && box.children[place]) box.children[place].click();
    }
  });
}

function legend(top, rows) {
  const kind = KINDS[view.colour], bar = el("i", {});
  const strong = (name) => "rgba(" + css(name) + ", " + STRONGEST + ")";
  const both = view.colour === "advantage" || view.colour === "ratio";
  bar.style.background = "linear-gradient(to right, " + (both ? strong("--hot") + ", transparent, " + strong("--cold") : "transparent, " + strong("--hot")) + ")";
  const ends = { entropy: ["0", shown(top)], logp: ["0", shown(-top)], advantage: [shown(-top), shown(top)], ratio: ["0.67", "1.5"] }[view.colour];
  const none = kind.key && !rows.some((row) => wordsOf(row).some((_, i) => numberAt(row, view.colour, i) != null));
  return el("p", { class: "legend" }, ends ? el("span", {}, kind.name + ": " + ends[0], bar, ends[1] + " " + kind.unit) : null,
    none ? el("span", { class: "missing" }, "these responses have no " + kind.name + " recorded") : null,
    el("span", {}, "bold and dotted: not in the other sample"), rows.some((row) => row.m) ? el("span", {}, "underlined: the clip that is echoed") : null);
}


// The parts that stay for as long as the page does.
function makeParts() {
  Object.assign(parts, { form: makeForm(), run: select("run", "run"), caption: el("caption", {}), head: el("thead", {}), body: el("tbody", {}),
    earlier: turn("Earlier", -1), later: turn("Later", 1), place: el("span", {}), legend: el("div", {}), pair: el("div", { class: "pair" }) });
  parts.list = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "rollouts" }, el("table", {}, parts.caption, parts.head, parts.body));
  parts.all = [el("p", { class: "lead" }, "Pick a sample with A, and another with B to see where they differ. The colour is behind each token; its numbers are in its tooltip, and by arrow keys."),
    parts.form, parts.list, el("div", { class: "pager" }, parts.earlier, parts.place, parts.later), parts.legend, parts.pair];
}

function drawBrowser(changed) {
  const root = document.getElementById("rollouts"), { rows } = state.doc.browser;
  if (!parts.all) makeParts();
  const none = () => [el("p", { class: "missing" }, "No rollouts are here: Rekindle keeps them with checkpoint.rollouts=1 (the default).")];
  put(root, rows.length > 0, () => [el("h2", { id: "rollouts-title" }, "Rollouts"), ...(rows.length ? parts.all : none())]);
  if (!rows.length) return;
  rows.forEach(adopt);
  if (state.doc.runs.length > 1 && !parts.run.isConnected) parts.form.prepend(parts.run);
  const found = matching(), byKey = new Map(rows.map((row) => [row.key, row]));
  if (changed === "follow" && found.length) { view.a = found[0]; view.b = found[found.length - 1]; }
  for (const side of ["a", "b"]) if (view[side]) view[side] = byKey.get(view[side].key) || view[side];
  view.a = view.a || found[0] || null;
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  view.page = Math.min(view.page, pages - 1);
  const pair = [["a", view.a], ["b", view.b]].filter(([, row]) => row);
  fillForm(changed);
  drawList(found);
  drawPager(pages);
  drawPair(pair, topOf(view.colour, pair.map(([, row]) => row)), (row) => byKey.has(row.key));
}
