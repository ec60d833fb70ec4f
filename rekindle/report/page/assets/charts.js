// Charts by Vega-Lite, as SVG, its expressions interpreted: the page's policy allows no code made from text.
const drawn = new Map();

function chartConfig() {
  const ink = css("--ink"), soft = css("--soft"), grid = css("--grid");
  const palette = colours();
  return {
    background: null, font: "system-ui, sans-serif", aria: false,
    axis: { labelColor: soft, titleColor: soft, gridColor: grid, domainColor: grid, tickColor: grid, titleFontWeight: 500 },
    legend: { labelColor: ink, titleColor: soft, symbolStrokeWidth: 3, symbolBaseStrokeColor: ink, symbolBaseFillColor: "transparent" },
    range: { category: palette, heatmap: [css("--ground"), css("--one")], ramp: [css("--ground"), css("--one")] },
    view: { stroke: null }, text: { color: soft, fontSize: 11 }, rule: { color: soft },
    mark: { color: palette[0] },
  };
}

// A run has one colour in every chart, and the start model is grey.
function coloured(spec, palette) {
  const found = { ...spec };
  for (const key of ["layer"]) if (found[key]) found[key] = found[key].map((part) => coloured(part, palette));
  const colour = found.encoding && found.encoding.color, domain = colour && colour.scale && colour.scale.domain;
  if (Array.isArray(domain) && domain.some((name) => typeof name === "string")) {
    const groups = state.doc.groups, own = domain.some((name) => groups.includes(name));
    const range = domain.map((name, i) => name === "base (start model)" ? css("--grey") : palette[(own ? Math.max(0, groups.indexOf(name)) : i) % palette.length]);
    found.encoding = { ...found.encoding, color: { ...colour, scale: { ...colour.scale, range } } };
  }
  return found;
}

function colours() {
  return ["--one", "--two", "--three", "--four", "--five", "--six", "--seven"].map(css);
}

// The place is an image with a sentence: roles inside it, which Vega gives to some marks, would be images without one.
function quiet(place) {
  for (const node of place.querySelectorAll("[role], [aria-roledescription], [aria-label]"))
    for (const name of ["role", "aria-roledescription", "aria-label"]) node.removeAttribute(name);
}

async function draw(place, chart) {
  const spec = { ...coloured(chart.spec, colours()), width: "container", height: chart.spec.height || 230, autosize: { type: "fit", contains: "padding" } };
  const found = await window.vegaEmbed(place, spec, { actions: false, renderer: "svg", ast: true, config: chartConfig() });
  quiet(place);
  new MutationObserver(() => quiet(place)).observe(place, { childList: true, subtree: true });
  place.style.minHeight = "";
  place.finalize = () => found.finalize();
  place.dataset.ready = "1";
  return found;
}

// The rows of all layers: curves, their fits, and the lines that they are held against.
function valuesOf(spec) {
  const own = spec.data && spec.data.values ? spec.data.values : [];
  return [...own, ...(spec.layer || []).flatMap(valuesOf)];
}

function figureOf(chart) {
  const place = el("div", { class: "chart", role: "img", "aria-label": chart.says });
  const data = el("details", {}, el("summary", {}, "Numbers"));
  data.addEventListener("toggle", () => {
    const rows = valuesOf(chart.spec);
    if (!data.open || data.childElementCount > 1 || !rows.length) return;
    const head = [...new Set(rows.flatMap((row) => Object.keys(row)))];
    data.append(tableOf({ title: chart.title, head, rows: rows.map((row) => head.map((name) => row[name])) }));
  });
  const figure = el("figure", {}, el("h3", {}, chart.title), place,
    el("figcaption", {}, chart.says, chart.note ? " " + chart.note : ""), data);
  return { figure, place };
}

function drawPanel(panel) {
  const section = el("section", { id: panel.id, "aria-labelledby": panel.id + "-title" },
    el("h2", { id: panel.id + "-title" }, panel.title), panel.lead ? el("p", { class: "lead" }, prose(panel.lead)) : null);
  const grid = el("div", { class: "charts" });
  const jobs = [];
  for (const chart of panel.charts) {
    const { figure, place } = figureOf(chart);
    grid.append(figure);
    jobs.push(() => draw(place, chart));
  }
  if (panel.charts.length) section.append(grid);
  for (const table of panel.tables) section.append(tableOf(table));
  for (const text of panel.missing) section.append(el("p", { class: "missing" }, prose(text)));
  return { section, jobs };
}

// Panels that did not change keep their place on the page; the others hand over whatever the reader had opened in them.
async function drawPanels(all) {
  const root = document.getElementById("panels");
  const jobs = [];
  for (const panel of state.doc.panels) {
    const text = JSON.stringify(panel);
    const old = drawn.get(panel.id);
    if (old && old.text === text && !all) continue;
    const made = drawPanel(panel);
    if (old) carry(old.section, made.section);
    else root.append(made.section);
    drawn.set(panel.id, { text, section: made.section });
    jobs.push(...made.jobs);
  }
  for (const job of jobs) await job();
}
