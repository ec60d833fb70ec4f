"""Groups: dead ones, advantages, novelty inside the bands, and how alike the responses to one prompt are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rekindle.report.page.charts import bars, lines
from rekindle.report.page.panels import Chart, Panel, Point, banded, groups_of, metric_curves, sig
from rekindle.report.recording import Recording
from rekindle.tokens.embed import HashedNgrams

RECORD = "Shares of dead groups are not in the steps, and no rollouts with scores are here to count them from."
RECORD_ADVANTAGE = (
    "No advantages are here: Rekindle keeps them in `credits/`; in TRL, attach `rekindle.interop.trl.RekindleRecorder`."
)
RECORD_ROLLOUTS = "No rollouts are here: Rekindle keeps them with checkpoint.rollouts=1 (the default)."
BINS = 21
MOST_ALIKE = 16
"""Responses of the similarity matrix, at most."""


def groups_panel(runs: Sequence[Recording]) -> Panel:
    """All of it; distributions compare the first and the last step with rollouts."""
    charts: list[Chart] = [*_dead(runs)]
    missing = [] if charts else [RECORD]
    tables = {run: (run.table(run.kept[0]), run.table(run.kept[-1])) for run in runs if run.kept}
    histogram = _histogram(runs, tables, "advantage", "Advantages")
    charts += histogram
    charts += _novelty(runs, tables)
    charts += [chart for run, (_, last) in list(tables.items())[:2] for chart in alike(run, last)]
    missing += [] if histogram else [RECORD_ADVANTAGE]
    missing += [] if tables else [RECORD_ROLLOUTS]
    missing += unscored(runs)
    lead = (
        "A group is the responses to one prompt. Where all are right or all are wrong its advantages are zero, and it "
        "teaches nothing."
    )
    return Panel(id="groups", title="Groups and advantages", lead=lead, charts=charts, missing=missing)


def _dead(runs: Sequence[Recording]) -> list[Chart]:
    curves = {}
    for name, told in (("groups/all_right", "all right"), ("groups/all_wrong", "all wrong"), ("groups/dead", "dead")):
        for group, own in metric_curves(runs, name).items():
            if len(groups_of(runs)) == 1:
                curves[told] = own
            elif told == "dead":
                curves[group] = own
    rows = banded(curves or counted(runs))
    return [lines("Dead groups", rows, y="share of groups", scale={"zero": True})] if rows else []


def counted(runs: Sequence[Recording]) -> dict[str, list[list[tuple[float, float]]]]:
    """The share of dead groups from the rollouts, where the steps do not say it."""
    found = {}
    for group, own in groups_of(runs).items():
        curves = [
            [(float(step), share) for step in run.kept if (share := dead(run.table(step))) is not None] for run in own
        ]
        if any(curves):
            found[group] = [curve for curve in curves if curve]
    return found


def dead(table: pa.Table) -> float | None:
    """Share of groups all of whose scores are equal; None of a table without groups or without scores."""
    if "score" not in table.column_names:
        return None
    scores: dict[int, list[float]] = {}
    for group, score in zip(table.column("group").to_pylist(), table.column("score").to_pylist(), strict=True):
        scores.setdefault(group, []).append(score)
    return float(np.mean([max(own) == min(own) for own in scores.values()])) if scores else None


def unscored(runs: Sequence[Recording]) -> list[str]:
    """Why runs of other trainers have rollouts without scores, as their readers say it."""
    told = [run for run in runs if "score" in run.options]
    lacking = [run for run in told if any("score" not in run.table(step).column_names for step in run.kept)]
    return [f"{run.name}: score and success are {run.options['score']}." for run in lacking]


Ends = dict[Recording, tuple[pa.Table, pa.Table]]


def _histogram(runs: Sequence[Recording], tables: Ends, name: str, title: str) -> list[Chart]:
    """Shares by bin at the first and the last step; of many runs, at the last step of each group."""
    values: dict[str, list[float]] = {}
    single = len(groups_of(runs)) == 1
    for group, own in groups_of(runs).items():
        for place, told in ((0, "first step"), (1, "last step")):
            found = [v for run in own if run in tables for v in numbers(tables[run][place], name)]
            if found and (single or place):
                values[told if single else group] = found
    if not values:
        return []
    low = min(min(v) for v in values.values())
    high = max(max(v) for v in values.values())
    rows = binned(values, low, high if high > low else low + 1)
    says = "; ".join(
        f"{told}: mean {np.mean(v):.3g}, spread {np.std(v):.3g}, {len(v)} responses" for told, v in values.items()
    )
    return [bars(f"{title} of responses", rows, x=name, y="share", says=f"{title}. {says}.")]


def numbers(table: pa.Table, name: str) -> list[float]:
    """A column's numbers, without what is unknown."""
    if name not in table.column_names:
        return []
    return [float(v) for v in table.column(name).to_pylist() if v is not None and np.isfinite(v)]


def binned(values: dict[str, list[float]], low: float, high: float, bins: int = BINS) -> list[Point]:
    """Histogram rows: the middle of each bin, the share in it."""
    edges = np.linspace(low, high, bins + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    rows: list[Point] = []
    for group, own in values.items():
        share = np.histogram(own, edges)[0] / len(own)
        rows += [{"x": f"{m:.3g}", "y": sig(s), "group": group} for m, s in zip(middle, share, strict=True)]
    return rows


def _novelty(runs: Sequence[Recording], tables: Ends) -> list[Chart]:
    """Where scores are shaped (novelty orders them inside a band of the majority and one of the rest)."""
    found: list[Chart] = []
    for group, own in groups_of(runs).items():
        last = [tables[run][1] for run in own if run in tables]
        sides = {"majority or right": True, "the others": False}
        values = {told: [s for t in last for s in scores(t, side)] for told, side in sides.items()}
        if len({s for v in values.values() for s in v}) <= 3:
            continue
        kept = {told: v for told, v in values.items() if v}
        rows = binned(kept, min(map(min, kept.values())), max(map(max, kept.values())))
        says = "; ".join(f"{told} from {min(v):.2f} to {max(v):.2f}" for told, v in kept.items())
        title = f"Scores inside their bands, last step ({group})"
        found.append(bars(title, rows, x="score", y="share", says=f"{title}: {says}."))
    return found[:2]


def scores(table: pa.Table, side: bool) -> list[float]:
    """The scores of the graded responses on one side of the label; none where the table has no scores or no labels."""
    if not {"score", "success"} <= set(table.column_names):
        return []
    columns = [table.column(name).to_pylist() for name in ("score", "success")]
    graded = table.column("graded").to_pylist() if "graded" in table.column_names else [True] * len(table)
    rows = zip(*columns, graded, strict=True)
    return [float(score) for score, success, told in rows if told and bool(success) == side and score is not None]


def alike(run: Recording, table: pa.Table) -> list[Chart]:
    """Cosine similarities of the responses to one prompt of a step: the prompt with the most varied right answers."""
    rows = table.select(
        [n for n in ("group", "success", "response", "id", "uid") if n in table.column_names]
    ).to_pylist()
    groups: dict[int, list[dict[str, object]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    large = [own for own in groups.values() if len(own) > 1]
    if not large:
        return []
    own = max(large, key=lambda g: (len({r["response"] for r in g if r.get("success")}), len(g)))
    own = sorted(own, key=lambda r: (not r.get("success"), str(r["response"])))
    step = max(1, -(-len(own) // MOST_ALIKE))
    own = own[::step][:MOST_ALIKE]
    vectors = HashedNgrams()([str(r["response"]) for r in own])
    close = (vectors @ vectors.T).numpy()
    told = {True: " right", False: " wrong", None: ""}
    names = [f"{i + 1}{told[r.get('success')]}" for i, r in enumerate(own)]
    off = close[~np.eye(len(own), dtype=bool)]
    title = f"How alike the responses to one prompt are ({run.name}, {own[0].get('id')})"
    says = f"{title}: mean cosine {off.mean():.2f}, from {off.min():.2f} to {off.max():.2f}, over {len(own)} responses."
    note = "By hashed n-grams of words and digits, whatever the run itself compares by."
    return [Chart(title=title, spec=heatmap(names, close), says=says, note=note)]


def heatmap(names: Sequence[str], close: np.ndarray) -> dict[str, Any]:
    """A square of cosines, rows and columns by name."""
    values = [{"a": a, "b": b, "s": sig(close[i, j], 3)} for i, a in enumerate(names) for j, b in enumerate(names)]
    axis = {"type": "ordinal", "sort": list(names), "title": None}
    kinds = (("a", "nominal"), ("b", "nominal"), ("s", "quantitative"))
    return {
        "data": {"values": values},
        "mark": {"type": "rect"},
        "encoding": {
            "x": {"field": "a", **axis, "axis": {"labelAngle": -90}},
            "y": {"field": "b", **axis},
            "color": {"field": "s", "type": "quantitative", "title": "cosine", "scale": {"domain": [0, 1]}},
            "tooltip": [{"field": field, "type": kind} for field, kind in kinds],
        },
    }
