// What the reader has on the page stays there while news come: focus, scrolling, selected text, open tables.
const written = new WeakMap();

// Writes into a place only what differs from what it holds.
function put(place, told, make) {
  const text = JSON.stringify(told);
  if (written.get(place) === text) return false;
  written.set(place, text);
  place.replaceChildren(...make());
  return true;
}

// Where the focus was on something that `act` made anew, it is on what has the same data-key, or else on `otherwise`.
function refocused(root, otherwise, act) {
  const active = root.contains(document.activeElement) ? document.activeElement : null;
  const key = active && active.dataset.key;
  act();
  if (!active || active.isConnected) return;
  const next = key && root.querySelector('[data-key="' + CSS.escape(key) + '"]');
  (next || otherwise()).focus({ preventScroll: true });
}

// Charts before and after, by their titles; those whose title changed by their places.
function paired(old, made) {
  const title = (figure) => figure.querySelector("h3").textContent;
  const [before, after] = [old, made].map((section) => [...section.querySelectorAll("figure")]);
  const named = new Map(before.map((figure) => [title(figure), figure]));
  const taken = new Set(after.map(title));
  return after.map((figure, i) =>
    [named.get(title(figure)) || (before[i] && !taken.has(title(before[i])) ? before[i] : null), figure]).filter(([was]) => was);
}

// Puts a section in the place of an old one, with what is open, scrolled or focused there.
function carry(old, made) {
  const pairs = paired(old, made), active = old.contains(document.activeElement) ? document.activeElement : null;
  for (const [was, now] of pairs) {
    now.querySelector(".chart").style.minHeight = was.querySelector(".chart").offsetHeight + "px"; // nothing jumps until it is drawn
    const table = now.querySelector("details");
    if (!was.querySelector("details").open) continue;
    table.open = true;
    table.dispatchEvent(new Event("toggle")); // the browser's own comes too late for the focus
  }
  const same = (node) => {
    const pair = pairs.find(([was]) => was.contains(node));
    if (pair) return pair[1].querySelector(node.localName === "summary" ? "summary" : ".scroll");
    const label = node.getAttribute("aria-label");
    return label && made.querySelector('[aria-label="' + CSS.escape(label) + '"]');
  };
  const scrolled = [...old.querySelectorAll(".scroll")].map((node) => [same(node), node.scrollLeft]);
  const focus = active && same(active);
  for (const chart of old.querySelectorAll(".chart")) if (chart.finalize) chart.finalize();
  old.replaceWith(made);
  for (const [node, left] of scrolled) if (node) node.scrollLeft = left;
  if (!active) return;
  if (!focus) made.tabIndex = -1;
  (focus || made).focus({ preventScroll: true });
}
