// The rollout browser: filter, pick two, see them side by side, follow a prompt over the steps.
const PAGE = 12;
const view = { run: "", step: "", prompt: "", verdict: "", low: "", high: "", sort: "step", colour: "entropy", page: 0, a: null, b: null };

function keyOf(row) {
  return [row.r, row.s, row.p, row.u].join("/");
}

function meanOf(row) {
  return row.e ? row.e.reduce((sum, v) => sum + v, 0) / row.e.length / state.doc.browser.scale : null;
}

function matching() {
  const found = state.doc.browser.rows.filter((row) =>
    (view.run === "" || row.r === Number(view.run)) && (view.step === "" || row.s === Number(view.step)) &&
    (view.prompt === "" || row.p === Number(view.prompt)) &&
    (view.verdict === "" || (view.verdict === "right") === Boolean(row.ok)) &&
    (view.low === "" || row.sc >= Number(view.low)) && (view.high === "" || row.sc <= Number(view.high)));
  const by = { step: (row) => row.s, score: (row) => -(row.sc || 0), entropy: (row) => -(meanOf(row) || 0), length: (row) => -wordsOf(row).length };
  return found.sort((x, y) => by[view.sort](x) - by[view.sort](y) || x.s - y.s || x.p - y.p);
}

function select(name, label, options) {
  const box = el("select", { name, on: { change: () => change(name, box.value) } }, options);
  box.value = String(view[name]);
  return el("label", {}, label, box);
}

function number(name, label) {
  const box = el("input", { name, type: "number", step: "any", value: view[name], on: { change: () => change(name, box.value) } });
  return el("label", {}, label, box);
}

function change(name, value) {
  view[name] = value;
  if (name !== "colour") view.page = 0;
  drawBrowser(name);
}

function unique(values) {
  return [...new Set(values)].sort((x, y) => x - y);
}

function filters() {
  const { rows, prompts } = state.doc.browser;
  const all = option("", "all");
  const short = (p) => prompts[p].id + ": " + prompts[p].text.replace(/\s+/g, " ").slice(0, 60);
  const named = Object.entries(KINDS).map(([key, kind]) => option(key, kind.name));
  return el("form", { class: "filters", "aria-label": "Filter the rollouts", on: { submit: (event) => event.preventDefault() } },
    state.doc.runs.length > 1 ? select("run", "run", [all.cloneNode(true), state.doc.runs.map((run, i) => option(i, run.name))]) : null,
    select("step", "step", [all.cloneNode(true), unique(rows.map((row) => row.s)).map((s) => option(s, s))]),
    select("prompt", "prompt", [all.cloneNode(true), unique(rows.map((row) => row.p)).map((p) => option(p, short(p)))]),
    select("verdict", "verdict", [all.cloneNode(true), option("right", "right"), option("wrong", "wrong")]),
    number("low", "reward from"), number("high", "reward to"),
    select("sort", "order", ["step", "score", "entropy", "length"].map((name) => option(name, name))),
    select("colour", "colour tokens by", named));
}

function listing(found) {
  const part = found.slice(view.page * PAGE, view.page * PAGE + PAGE);
  const pick = (row, side) => el("button", { type: "button", "aria-pressed": String(view[side] === keyOf(row)),
    "aria-label": "show on the " + (side === "a" ? "left" : "right") + ": step " + row.s + ", " + state.doc.browser.prompts[row.p].id,
    on: { click: () => { view[side] = keyOf(row); drawBrowser("pick"); } } }, side.toUpperCase());
  const several = state.doc.runs.length > 1;
  const head = ["show", ...(several ? ["run"] : []), "step", "prompt", "verdict", "score", "advantage", "entropy", "response"];
  const rows = part.map((row) => el("tr", {}, [
    el("span", { class: "pick" }, pick(row, "a"), " ", pick(row, "b")), ...(several ? [state.doc.runs[row.r].name] : []), row.s, state.doc.browser.prompts[row.p].id, row.ok ? "right" : "wrong",
    shown(row.sc), shown(row.ad), shown(meanOf(row)), el("span", { class: "clip" }, wordsOf(row).slice(0, 80).join(""))].map((cell) => el("td", {}, cell))));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "rollouts" },
    el("table", {}, el("caption", {}, found.length + " of " + state.doc.browser.rows.length + " rollouts"),
      el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, rows)));
}

function pager(count) {
  const pages = Math.max(1, Math.ceil(count / PAGE));
  const turn = (text, by, off) => el("button", { type: "button", disabled: off, on: { click: () => { view.page += by; drawBrowser("page"); } } }, text);
  return el("div", { class: "pager" }, turn("Earlier", -1, view.page === 0), "page " + (view.page + 1) + " of " + pages, turn("Later", 1, view.page + 1 >= pages));
}

function sample(row, side, other, top) {
  const name = side === "a" ? "A" : "B";
  const facts = ["step " + row.s, row.ok ? "right" : "wrong", "score " + shown(row.sc)];
  if (row.ad != null) facts.push("advantage " + shown(row.ad));
  if (row.an != null) facts.push("answer " + row.an);
  if (row.lb != null) facts.push("label " + row.lb);
  if (row.f) facts.push("ended by " + row.f);
  const differs = other ? differing(wordsOf(row), wordsOf(other)) : null;
  if (other && !differs) facts.push("too long to compare token by token");
  const follow = el("button", { type: "button", on: { click: () => { Object.assign(view, { prompt: String(row.p), step: "", verdict: "", low: "", high: "", sort: "step", page: 0 }); drawBrowser("follow"); } } }, "This prompt over the steps");
  return el("article", { class: "sample", "aria-label": "sample " + name }, el("h3", {}, name + ": " + state.doc.browser.prompts[row.p].id + (state.doc.runs.length > 1 ? ", " + state.doc.runs[row.r].name : "")),
    el("p", { class: "facts" }, facts.join("; ")), el("div", { class: "prompt", tabindex: "0", role: "region", "aria-label": "prompt of " + name }, state.doc.browser.prompts[row.p].text),
    tokensOf(row, view.colour, top, differs, "response " + name), follow);
}

function legend(top, rows) {
  const kind = KINDS[view.colour], bar = el("i", {});
  const strong = (name) => "rgba(" + css(name) + ", " + STRONGEST + ")";
  const both = view.colour === "advantage" || view.colour === "ratio";
  bar.style.background = "linear-gradient(to right, " + (both ? strong("--hot") + ", transparent, " + strong("--cold") : "transparent, " + strong("--hot")) + ")";
  const ends = { entropy: ["0", shown(top)], logp: ["0", shown(-top)], advantage: [shown(-top), shown(top)], ratio: ["0.67", "1.5"] }[view.colour];
  const none = kind.key && !rows.some((row) => numberAt(row, view.colour, 0) != null);
  return el("p", { class: "legend" }, ends ? el("span", {}, kind.name + ": " + ends[0], bar, ends[1] + " " + kind.unit) : null,
    none ? el("span", { class: "missing" }, "these responses have no " + kind.name + " recorded") : null,
    el("span", {}, "bold and dotted: not in the other sample"), rows.some((row) => row.m) ? el("span", {}, "underlined: the clip that is echoed") : null);
}

function drawBrowser(changed) {
  const root = document.getElementById("rollouts"), { rows } = state.doc.browser;
  const active = document.activeElement && root.contains(document.activeElement) ? document.activeElement : null;
  const again = active && (active.name ? "[name=" + active.name + "]" : active.getAttribute("aria-label") ? '[aria-label="' + CSS.escape(active.getAttribute("aria-label")) + '"]' : null);
  const title = el("h2", { id: "rollouts-title" }, "Rollouts");
  if (!rows.length) {
    root.replaceChildren(title, el("p", { class: "missing" }, "No rollouts are here: Rekindle keeps them with checkpoint.rollouts=1 (the default)."));
    return;
  }
  const found = matching(), byKey = new Map(rows.map((row) => [keyOf(row), row]));
  if (changed === "follow" && found.length) { view.a = keyOf(found[0]); view.b = keyOf(found[found.length - 1]); }
  if (!byKey.has(view.a)) view.a = found.length ? keyOf(found[0]) : null;
  if (!byKey.has(view.b)) view.b = null;
  const pair = [["a", byKey.get(view.a)], ["b", byKey.get(view.b)]].filter(([, row]) => row);
  const top = topOf(view.colour, pair.map(([, row]) => row));
  root.replaceChildren(title, el("p", { class: "lead" }, "Pick a sample with A, and another with B to see where they differ. The colour is behind each token; its numbers are in its tooltip, and by arrow keys."),
    filters(), listing(found), pager(found.length), legend(top, pair.map(([, row]) => row)),
    el("div", { class: "pair" }, pair.map(([side, row], i) => sample(row, side, pair.length === 2 ? pair[1 - i][1] : null, top))));
  const next = again && root.querySelector(again);
  if (next) next.focus({ preventScroll: true });
}
