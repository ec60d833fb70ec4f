// The page as a whole, and its news while a run goes on.
function drawHead() {
  const { doc } = state;
  document.getElementById("title").textContent = doc.title;
  const many = doc.runs.length > 3, steps = doc.runs.map((run) => run.step);
  document.getElementById("about").textContent = many ? doc.runs.length + " runs at step " + Math.min(...steps) + (Math.max(...steps) > Math.min(...steps) ? " to " + Math.max(...steps) : "") + ", " + doc.runs.filter((run) => run.done).length + " finished" : doc.runs.map((run) =>
    run.name + (run.origin === "rekindle" ? "" : " (" + run.origin + ")") + ": step " + run.step + (run.steps ? " of " + run.steps : "") + (run.done ? ", finished" : "")).join("; ");
  const names = { unknown: "too early to tell", sound: "sound", watch: "watch it", collapsing: "collapsing" };
  put(document.getElementById("verdicts"), doc.verdicts, () => doc.verdicts.map((v) =>
    el("div", { class: "verdict " + v.state }, el("h3", {}, v.group, el("span", { class: "state" }, names[v.state])), el("p", {}, prose(v.text)))));
  const links = [["verdict", "Verdict"], ...doc.panels.map((panel) => [panel.id, panel.title]), ["rollouts", "Rollouts"]];
  put(document.getElementById("nav"), links, () => links.map(([id, text]) => el("li", {}, el("a", { href: "#" + id }, text))));
  put(document.getElementById("notes"), doc.notes, () => doc.notes.map((text) => el("li", {}, prose(text))));
}

async function drawOnce(all) {
  drawHead();
  await drawPanels(all);
  drawBrowser(all ? "all" : "news");
  document.body.dataset.ready = "1";
}

// One drawing after the other: a theme that is changed while news are drawn is not drawn into the same places.
let drawing = Promise.resolve();
function drawAll(all) {
  drawing = drawing.catch(() => null).then(() => drawOnce(all));
  return drawing;
}

const stored = window.matchMedia("(prefers-color-scheme: dark)");
setTheme(stored.matches ? "dark" : "light");
document.getElementById("theme").addEventListener("click", () =>
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark", () => drawAll(true)));
stored.addEventListener("change", () => setTheme(stored.matches ? "dark" : "light", () => drawAll(true)));
await drawAll(true);

// A server that is gone is no error of the page: it says so and asks again.
const live = document.body.dataset.live, news = document.getElementById("news");
let tag = null, wait = 2000;
// Only what is new is written: a screen reader says every change.
function tell(text) {
  if (news.textContent !== text) news.textContent = text;
}
async function ask() {
  try {
    const answer = await fetch(live, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
    if (answer.status === 200) {
      tag = answer.headers.get("ETag");
      state.doc = await answer.json();
      await drawAll(false);
    }
    if (answer.status === 503) throw new Error(await answer.text());
    const over = state.doc.runs.every((run) => run.done);
    tell(over ? "The run is finished." : "Live: step " + Math.max(...state.doc.runs.map((run) => run.step)) + ".");
    wait = over ? 10000 : 2000;
  } catch (error) {
    tell(error instanceof TypeError ? "rekindle watch does not answer: what is shown is what was last heard." : error.message);
  }
  setTimeout(ask, wait);
}
if (live) ask();
