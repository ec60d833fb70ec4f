"""Clip accounting: how many tokens, how much advantage and how much entropy each side of the clip takes away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rekindle.report.page.charts import lines
from rekindle.report.page.entropy import Looked
from rekindle.report.page.panels import Chart, Curve, Key, Panel, Table, banded, groups_of, metric_curves, part_of
from rekindle.report.recording import Recording

RECORD = (
    "The share of clipped tokens (clip_low, clip_high) is not in the steps: Rekindle logs it for clipped objectives; "
    "in TRL, attach `rekindle.interop.trl.RekindleRecorder`; in verl, log to a file (trainer.logger=[file])."
)
RECORD_RATIOS = (
    "Advantage and entropy lost to the clip need the ratio of every token in a step of several updates (`credits/`): "
    "Rekindle keeps it; in TRL, attach `rekindle.interop.trl.RekindleRecorder`."
)
UNCLIPPED = (
    "Advantage and entropy lost to the clip are counted where the ratio of each token is clipped by fixed bounds. This "
    "objective does no such thing: GSPO clips the ratio of a whole response, others clip none."
)
SIDES = ("low", "high")


def clipping_panel(runs: Sequence[Recording], looked: Looked) -> Panel:
    """Tokens, advantage and entropy by side."""
    charts: list[Chart] = []
    curves = {}
    for side in SIDES:
        for group, own in metric_curves(runs, f"clip_{side}").items():
            curves[part_of(runs, group, f"{side} side")] = own
    if curves:
        charts.append(lines("Tokens that are clipped", banded(curves), y="share of tokens", scale={"zero": True}))
    for name, title, axis in (
        ("mass", "Advantage on clipped tokens", "share of |advantage|"),
        ("lost", "Entropy change lost to the clip", "nats per unit of step"),
    ):
        rows = banded(_sides(runs, looked, name))
        if rows:
            charts.append(lines(title, rows, y=axis))
    lead = (
        "The low side stops tokens of wrong responses from becoming rarer, the high side tokens of right ones from "
        "becoming likelier. Entropy lost: the part of the first-order change of entropy that clipped tokens would "
        "have made; above 0 the clip kept entropy from rising (typical of the high side, on rare tokens), below 0 "
        "from falling."
    )
    tables, missing = _totals(runs, looked), _missing(looked, bool(curves))
    return Panel(id="clipping", title="What the clip takes", lead=lead, charts=charts, tables=tables, missing=missing)


def _missing(looked: Looked, shares: bool) -> list[str]:
    """What to record; nothing where advantages were recorded, but the objective has no bounds to record."""
    steps = [m for own in looked.values() for m in own]
    if any(np.isfinite(m.mass).all() for m in steps):
        return [] if shares else [RECORD]
    if any(np.isfinite(m.covariance) for m in steps):
        return [UNCLIPPED]
    return [*([] if shares else [RECORD]), RECORD_RATIOS]


def _sides(runs: Sequence[Recording], looked: Looked, name: str) -> dict[Key, Sequence[Curve]]:
    found: dict[Key, Sequence[Curve]] = {}
    for group, own in groups_of(runs).items():
        for i, side in enumerate(SIDES):
            curves = [[(float(m.step), vars(m)[name][i]) for m in looked.get(run, ())] for run in own]
            kept = [c for c in curves if c and np.isfinite([y for _, y in c]).any()]
            if kept:
                found[part_of(runs, group, f"{side} side")] = kept
    return found


def _totals(runs: Sequence[Recording], looked: Looked) -> list[Table]:
    """Sums over the steps that were looked at."""
    rows = []
    for run in runs:
        own = [m for m in looked.get(run, ()) if np.isfinite(m.mass).all()]
        if own:
            mass = np.mean([m.mass for m in own], axis=0)
            lost = np.sum([m.lost for m in own], axis=0)
            whole = -sum(m.covariance for m in own)
            rows.append([run.name, *(f"{v:.3%}" for v in mass), *(f"{v:+.4f}" for v in lost), f"{whole:+.4f}"])
    head = ("run", "advantage, low", "advantage, high", "entropy, low", "entropy, high", "of all tokens")
    return (
        [Table(title="Mean share of advantage, and summed entropy change, on clipped tokens", head=head, rows=rows)]
        if rows
        else []
    )
