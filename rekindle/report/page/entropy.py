"""Entropy: mean, by correctness, along a response, in forking and filler tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rekindle.report.page.charts import lines
from rekindle.report.page.panels import (
    Chart,
    Panel,
    Point,
    Table,
    banded,
    cells,
    groups_of,
    metric_curves,
    part_of,
    sig,
)
from rekindle.report.page.tokens import BINS, FORKING, Measured
from rekindle.report.recording import Recording

RECORD_TOKENS = (
    "No entropies of single tokens are here: Rekindle keeps them with checkpoint.tokens=true and checkpoint.rollouts=1 "
    "(the defaults); in TRL, attach `rekindle.interop.trl.RekindleRecorder`."
)
WORDS, LEAST = 12, 5
"""Tokens that are listed, and how often one has to occur in a step to be."""
Looked = Mapping[Recording, Sequence[Measured]]


def entropy_panel(runs: Sequence[Recording], looked: Looked) -> Panel:
    """All of it."""
    charts = [*_means(runs), *_sides(runs), *_forking(runs, looked), *_positions(runs, looked)]
    missing = [] if any(np.isfinite(m.entropy) for own in looked.values() for m in own) else [RECORD_TOKENS]
    lead = (
        "How undecided the policy is, in nats a token. Forking tokens are the most uncertain "
        f"{FORKING:.0%} of a step; the rest are filler, which hardly ever has a choice."
    )
    tables = [table for run in runs[:1] for table in _words(run, looked.get(run, ()))]
    return Panel(id="entropy", title="Entropy", lead=lead, charts=charts, tables=tables, missing=missing)


def _means(runs: Sequence[Recording]) -> list[Chart]:
    rows = banded(metric_curves(runs, "entropy"))
    return [lines("Mean entropy of the policy", rows, y="nats a token", scale={"zero": True})] if rows else []


def _sides(runs: Sequence[Recording]) -> list[Chart]:
    curves = {}
    for name, told in (("entropy/right", "right"), ("entropy/wrong", "wrong")):
        for group, own in metric_curves(runs, name).items():
            curves[part_of(runs, group, told)] = own
    rows = banded(curves)
    return [lines("Entropy of right and of wrong responses", rows, y="nats a token")] if rows else []


def _forking(runs: Sequence[Recording], looked: Looked) -> list[Chart]:
    curves = {}
    for group, own in groups_of(runs).items():
        for name, told in (("forking", "forking"), ("filler", "filler")):
            found = [[(float(m.step), vars(m)[name]) for m in looked.get(run, ())] for run in own]
            kept = [c for c in found if c and np.isfinite([y for _, y in c]).any()]
            if kept:
                curves[part_of(runs, group, told)] = kept
    rows = banded(curves)
    return [lines("Forking and filler tokens", rows, y="nats a token", scale={"zero": True})] if rows else []


def _positions(runs: Sequence[Recording], looked: Looked) -> list[Chart]:
    rows: list[Point] = []
    for group, own in groups_of(runs).items():
        for place, told in ((0, "first step"), (-1, "last step")):
            found = [looked[run][place].positions for run in own if looked.get(run)]
            stack = np.array([positions for positions in found if np.isfinite(positions).any()])
            if not len(stack):
                continue
            count = np.isfinite(stack).sum(axis=0)
            mean = np.nansum(stack, axis=0) / np.maximum(count, 1)
            name = cells(part_of(runs, group, told))
            rows += [{"x": round((i + 0.5) / BINS, 3), "y": sig(v), **name} for i, v in enumerate(mean) if count[i]]
    title = "Entropy along a response"
    return [lines(title, rows, x="place in the response (0 its start, 1 its end)", y="nats a token")] if rows else []


def _words(run: Recording, own: Sequence[Measured]) -> list[Table]:
    """The tokens that fork most, at the first and at the last step that was looked at."""
    shown = [m for m in own if m.words]
    if not shown:
        return []
    first, last = shown[0], shown[-1]
    mean = {w: s / c for w, (s, c) in first.words.items() if c >= LEAST}
    top = sorted(mean, key=lambda w: -mean[w])[:WORDS]
    rows = []
    for word in top:
        total, count = last.words.get(word, (0.0, 0))
        now = f"{total / count:.3f}" if count else "-"
        rows.append([repr(word)[1:-1] or "(empty)", f"{mean[word]:.3f}", now, first.words[word][1], count])
    head = ("token", f"nats at step {first.step}", f"at step {last.step}", "times then", "times now")
    return [Table(title=f"The tokens that fork most ({run.name})", head=head, rows=rows)]
