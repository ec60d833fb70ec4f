"""What moves entropy and what entropy buys: the covariance term against the change, and R = -a e^H + b."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rekindle.errors import InputError
from rekindle.report.forecast import SPENT, Forecast, forecast
from rekindle.report.page.charts import lines, points
from rekindle.report.page.entropy import Looked
from rekindle.report.page.panels import Chart, Panel, Table, averaged, banded, groups_of, sig
from rekindle.report.page.tokens import Measured
from rekindle.report.recording import Recording

RECORD_CREDITS = (
    "The covariance needs each token's log-prob and its response's advantage: Rekindle keeps both where a method "
    "descends on an advantage (checkpoint.tokens=true); in TRL, attach `rekindle.interop.trl.RekindleRecorder`."
)
AHEAD = 0.5
"""Share of a run by which the forecast goes on."""
STRETCHES, SHORT = 8, 16
"""Stretches of a run over which the prediction is held against the change; runs of fewer steps go step by step."""


def covariance_panel(runs: Sequence[Recording], looked: Looked) -> Panel:
    """The covariance term against what entropy really did."""
    rows, said = [], []
    for group, own in groups_of(runs).items():
        for run in own:
            pairs = predicted(run, looked.get(run, ()))
            rows += [{"x": sig(-c), "y": sig(change), "group": group} for c, change in pairs]
            table = np.array(pairs)
            if len(pairs) >= 3 and table.std(axis=0).all():
                r = float(np.corrcoef(-table[:, 0], table[:, 1])[0, 1])
                means = [f"{mean:+.5f}" for mean in table.mean(axis=0)]
                said.append([run.name, len(pairs), f"{r:+.2f}", *means])
    curves = {g: [_covariances(looked.get(run, ())) for run in own] for g, own in groups_of(runs).items()}
    drawn = banded({g: [c for c in own if c] for g, own in curves.items() if any(own)})
    charts = [lines("Covariance of log-prob and advantage", drawn, y="covariance")] if drawn else []
    if rows:
        says = f"{len(rows)} stretches, minus the covariance against the change of entropy."
        x, y = "minus the covariance", "change of entropy a step, nats"
        charts.append(points("Predicted direction against the change", rows, x=x, y=y, says=says))
    head = ("run", "stretches", "correlation", "mean covariance", "mean change a step")
    tables = [Table(title="Does the covariance predict the change?", head=head, rows=said)] if said else []
    lead = (
        "A policy-gradient step changes entropy, to first order, by minus the covariance of log-prob and advantage, "
        "times a rate that the optimiser sets: where tokens that are likely already are also the rewarded ones, "
        "entropy falls. Single steps are noisy, for each has other prompts: longer runs are compared over "
        f"{STRETCHES} stretches."
    )
    missing = [] if drawn else [RECORD_CREDITS]
    title = "Covariance and the change of entropy"
    return Panel(id="covariance", title=title, lead=lead, charts=charts, tables=tables, missing=missing)


def _covariances(own: Sequence[Measured]) -> list[tuple[float, float]]:
    return [(float(m.step), m.covariance) for m in own if np.isfinite(m.covariance)]


def predicted(run: Recording, own: Sequence[Measured]) -> list[tuple[float, float]]:
    """(mean covariance, slope of entropy a step) over stretches; step by step where there are few."""
    entropy = dict(run.series("entropy")) or {m.step: m.entropy for m in own}
    known = [(m.step, m.covariance) for m in own if np.isfinite(m.covariance) and m.step in entropy]
    if len(known) < SHORT:
        steps = [(c, entropy[s + 1] - entropy[s]) for s, c in known if s + 1 in entropy]
        return [(c, d) for c, d in steps if np.isfinite(d)]
    found = []
    for part in np.array_split(np.array(known), STRETCHES):
        first, last = part[0, 0], part[-1, 0]
        inside = np.array([(s, h) for s, h in entropy.items() if first <= s <= last and np.isfinite(h)])
        if len(inside) > 1:
            found.append((float(part[:, 1].mean()), float(np.polyfit(inside[:, 0], inside[:, 1], 1)[0])))
    return found


def law_panel(runs: Sequence[Recording]) -> Panel:
    """R = -a e^H + b: what entropy bought, and where the law says that it ends."""
    charts, rows, missing = [], [], []
    for run in runs:
        try:
            found = forecast([*run.steps, *run.other], run.options)
        except InputError as error:
            missing.append(f"{run.name}: {error}.")
            continue
        if run is runs[0] or len(runs) <= 2:
            charts += [_law(run, found), _decay(run, found)]
        spreads = map(found.spread, ("a", "b", "ceiling", "floor", "spent"))
        cells = [
            told(value) if low == high else f"{told(value)} ({told(low)} to {told(high)})"
            for value, (low, high) in spreads
        ]
        rows.append([run.name, found.fitted.score_name, *cells, ". ".join(found.notes)])
    ceiling, floor, spent = "ceiling, at no entropy", "floor of entropy", f"step at which it is down to {SPENT:g} nats"
    head = ("run", "score", "a", "b", ceiling, floor, spent, "notes")
    tables = [Table(title="Fits, with 90 % intervals", head=head, rows=rows)] if rows else []
    lead = (
        "Without intervention a score follows R = -a e^H + b (Cui et al., arXiv 2505.22617): it is bought with "
        "entropy, and the ceiling b - a is reached when entropy is spent. Entropy decays to a floor; the curve goes on "
        "past the last step, as a forecast. `rekindle forecast RUN` prints the same."
    )
    return Panel(id="law", title="What entropy buys", lead=lead, charts=charts, tables=tables, missing=missing)


def _law(run: Recording, found: Forecast) -> Chart:
    entropy, score = found.fitted.score_entropy, found.fitted.score
    rows = [{"x": sig(h), "y": sig(r), "group": run.method} for h, r in zip(entropy, score, strict=True)]
    grid = np.linspace(0.0, float(entropy.max()), 40)
    curve = [{"x": sig(h), "y": sig(r)} for h, r in zip(grid, found.law.score(grid), strict=True)]
    says = f"Score ({found.fitted.score_name}) against entropy of {run.name}, with the fitted curve: "
    says += f"ceiling {found.law.ceiling:.3g} at no entropy."
    title = f"R = -a e^H + b ({run.name})"
    return points(title, rows, x="entropy, nats a token", y="score", curve=curve, says=says)


def _decay(run: Recording, found: Forecast) -> Chart:
    """Entropy over the steps, its fit, and half a run more of it."""
    step, entropy = found.fitted.step, found.fitted.entropy
    rows = [
        {"x": float(x), "y": sig(h), "group": run.method} for x, h in averaged(list(zip(step, entropy, strict=True)))
    ]
    grid = np.linspace(float(step[0]), float(step[-1]) + AHEAD * float(step[-1] - step[0]), 60)
    curve = [{"x": sig(x), "y": sig(h)} for x, h in zip(grid, found.decay.entropy(grid), strict=True)]
    ends = f"{curve[0]['y']:.3g} at the start, {curve[-1]['y']:.3g} at step {grid[-1]:.0f}"
    says = f"Entropy of {run.name} and its fit: {ends}."
    title = f"Where entropy goes ({run.name})"
    return points(title, rows, x="step", y="nats a token", curve=curve, says=says)


def told(value: float) -> str:
    """Three digits; "never" for a step that is not reached."""
    return f"{value:.3g}" if np.isfinite(value) else "never"
