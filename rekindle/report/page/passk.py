"""pass@k of evaluations with bootstrap intervals, base against now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from rekindle.report.page.charts import BASE, lines
from rekindle.report.page.panels import Chart, Curve, Key, Panel, Point, banded, cells, groups_of, sig
from rekindle.report.page.sources import by_source
from rekindle.report.page.tokens import shared_steps
from rekindle.report.recording import Recording
from rekindle.train.counts import Counts
from rekindle.train.estimators import pass_at_k

DRAWS, SEED, LEVEL = 1000, 0, 0.95
NAMES = {"heldout": "held out", "ood": "out of distribution", "train": "training prompts"}
RECORD = (
    "No evaluation with counts a prompt is here: `rekindle train ... --set evaluate.every=10` keeps them, as does "
    "`rekindle compare`."
)
OTHERS = "Runs on other prompts have a chart of their own: ids alone do not tell prompts of two sources apart."
Groups = Mapping[str, Sequence[Recording]]
RECORD_OOD = (
    "Nothing was measured out of distribution: `rekindle compare` measures it, and `rekindle eval RUN --split ood "
    "--keep RUN` adds it to a run."
)


def split_counts(run: Recording, split: str) -> tuple[Counts | None, Counts | None]:
    """(the base's counts, the newest counts) of a split; the base's only where it shares prompts with the newest."""
    own = sorted((c for c in run.counts if c.split == split), key=lambda c: c.step)
    now = next((c for c in reversed(own) if c.step > 0), None)
    base = [c for c in own if c.step == 0]
    if now is not None:  # a comparison measures more prompts than the run itself does
        base = sorted(base, key=lambda c: len(c.right.keys() & now.right.keys()))
        base = [c for c in base if c.right.keys() & now.right.keys()]
    return (base[-1] if base else None), now


def rates(counts: Counts, ks: Sequence[int]) -> np.ndarray:
    """pass@k of every prompt [P K]."""
    return np.array([[pass_at_k(counts.samples, c, k) for k in ks] for c in counts.right.values()]).reshape(-1, len(ks))


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap interval over prompts of the mean of [P K]: (low, high) [K]."""
    made = np.random.default_rng(SEED)
    rows = made.integers(0, len(values), (DRAWS, len(values)))
    means = values[rows].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def powers(samples: int) -> list[int]:
    """1, 2, 4, ... up to the number of samples, and that number."""
    ks = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    return ks if ks[-1] == samples else [*ks, samples]


def curve_rows(key: str | Key, counts: Sequence[Counts]) -> list[Point]:
    """pass@k over k of runs that were measured on the same prompts: the mean of the runs, a prompt at a time."""
    common = set.intersection(*(set(c.right) for c in counts))
    samples = min(c.samples for c in counts)
    ks = powers(samples)
    order = sorted(common)
    if not order:
        return []
    tables = [rates(Counts(c.step, c.split, c.samples, {p: c.right[p] for p in order}), ks) for c in counts]
    values = np.mean(tables, axis=0)
    low, high = interval(values)
    return [
        {"x": k, "y": sig(values[:, i].mean()), "low": sig(low[i]), "high": sig(high[i]), **cells(key)}
        for i, k in enumerate(ks)
    ]


def pass_panel(runs: Sequence[Recording]) -> Panel:
    """pass@k by k and by step."""
    charts: list[Chart] = []
    apart: list[str] = []
    splits = [s for s in NAMES if any(c.split == s for run in runs for c in run.counts)]
    for split in splits:
        places = by_source(runs, split)
        for place, own in places.items():
            rows = split_rows(_groups(runs, own), split)
            if rows:
                charts.append(_by_k(NAMES[split] + place, rows, OTHERS if place else ""))
            elif any(split_counts(run, split)[1] is not None for run in own):
                apart.append(f"The runs share no prompt {NAMES[split]}{place}: they cannot be compared there.")
    charts += _by_step(runs) or _in_training(runs)
    missing = apart if splits else [RECORD]
    missing += [RECORD_OOD] if splits and "ood" not in splits else []
    lead = (
        "How many prompts are solved by at least one of k samples. pass@1 is what the model does at once; pass@k at "
        "large k is what it can still find. Training that only sharpens raises the left end and lowers the right "
        f"one. Bands: {LEVEL:.0%} bootstrap intervals over prompts."
    )
    return Panel(id="passk", title="What it can solve", lead=lead, charts=charts, missing=missing)


def _groups(runs: Sequence[Recording], some: Sequence[Recording]) -> Groups:
    """The groups of all runs, with only some of the runs in them."""
    found = {group: [run for run in own if run in some] for group, own in groups_of(runs).items()}
    return {group: own for group, own in found.items() if own}


def split_rows(groups: Groups, split: str) -> list[Point]:
    """The base's curve, then that of every group of runs, on the prompts that all were measured on."""
    pairs = {run: split_counts(run, split) for own in groups.values() for run in own}
    there = [c for pair in pairs.values() for c in pair if c is not None]
    common = set.intersection(*(set(c.right) for c in there)) if there else set[str]()
    bases = {g: [only(c, common) for run in own if (c := pairs[run][0]) is not None] for g, own in groups.items()}
    base = base_rows(groups, {group: own for group, own in bases.items() if own})
    one = all(row["group"] == BASE for row in base)  # none, too
    rows: list[Point] = []
    for group, own in groups.items():
        now = [only(c, common) for run in own if (c := pairs[run][1]) is not None]
        rows += curve_rows(group if one else (group, "now"), now) if now else []
    return base + rows if one else rows + base


@dataclass
class Start:
    """A start model: its measurements, each once, and the groups that began with it."""

    model: str
    measured: dict[str, Counts]
    groups: list[str]


def base_rows(groups: Groups, bases: Mapping[str, Sequence[Counts]]) -> list[Point]:
    """A curve for every start model: BASE where it is one, else by who began with it.

    One of a name is the same only where a measurement of it is, too: names are paths, and two may mean two models.
    """
    found: list[Start] = []
    for group, own in bases.items():
        model = model_of(groups[group])
        measured = {repr((c.samples, sorted(c.right.items()))): c for c in own}
        same = next((s for s in found if s.model == model and s.measured.keys() & measured.keys()), None)
        if same is None:
            found.append(Start(model, measured, [group]))
        else:
            same.measured.update(measured)
            same.groups.append(group)
    one = len(found) == 1 and {model_of(own) for own in groups.values()} == {found[0].model}
    keys: list[str | Key] = [BASE if one else (BASE, f"of {', '.join(start.groups)}") for start in found]
    pairs = zip(keys, found, strict=True)
    return [row for key, start in pairs for row in curve_rows(key, list(start.measured.values()))]


def model_of(group: Sequence[Recording]) -> str:
    """What the runs of a group began with, as their options name it."""
    return str(group[0].options.get("model"))


def only(counts: Counts, prompts: set[str]) -> Counts:
    """The counts of some prompts."""
    return replace(counts, right={p: c for p, c in counts.right.items() if p in prompts})


def _by_k(where: str, rows: Sequence[Point], note: str) -> Chart:
    chart = lines(f"pass@k, {where}", rows, x="k", y="pass@k")
    first = chart.spec["encoding"]["x"]
    ticks = sorted({row["x"] for row in rows})
    scaled = {**first, "scale": {"type": "log", "base": 2}, "axis": {"values": ticks, "format": "d"}}
    spec = {**chart.spec, "encoding": {**chart.spec["encoding"], "x": scaled}}
    return Chart(title=chart.title, spec=spec, says=chart.says, note=note)


def _by_step(runs: Sequence[Recording]) -> list[Chart]:
    """pass@1 and pass@k of the run's own evaluations over its steps."""
    found: list[Chart] = []
    names = [n for r in runs for e in r.of_kind("eval") for n in e if n.startswith("pass@")]
    for name in sorted(set(names), key=lambda n: int(n[5:])):
        curves = {g: [evaluated(run, name) for run in own] for g, own in groups_of(runs).items()}
        rows = banded({g: [c for c in own if len(c) > 1] for g, own in curves.items() if any(len(c) > 1 for c in own)})
        if rows and name in (min(names, key=lambda n: int(n[5:])), max(names, key=lambda n: int(n[5:]))):
            found.append(lines(f"{name} of the run's evaluations", rows, y=name))
    return found


def _in_training(runs: Sequence[Recording]) -> list[Chart]:
    """Where nothing was evaluated: the groups of the training prompts, by the run's own label."""
    curves: dict[Key, Sequence[Curve]] = {}
    for group, own in groups_of(runs).items():
        plan = shared_steps([run.kept for run in own])
        found = [
            [(float(step), *pair) for step in steps if (pair := shares(run.table(step))) is not None]
            for run, steps in zip(own, plan, strict=True)
        ]
        for i, told in ((1, "all responses"), (2, "at least one of a group")):
            kept = [[(row[0], row[i]) for row in rows] for rows in found if rows]
            if kept:
                curves[group, told] = kept
    title = "Right in training, by the run's own label"
    return [lines(title, banded(curves), y="share", scale={"zero": True})] if curves else []


def shares(table: pa.Table) -> tuple[float, float] | None:
    """(share of right responses, share of groups with a right one) of a step's rollouts.

    None of a table without rows, or without labels.
    """
    if not len(table) or "success" not in table.column_names:
        return None
    solved: dict[int, list[bool]] = {}
    for group, right in zip(table.column("group").to_pylist(), table.column("success").to_pylist(), strict=True):
        solved.setdefault(group, []).append(bool(right))
    return float(np.mean([r for own in solved.values() for r in own])), float(
        np.mean([any(r) for r in solved.values()])
    )


def evaluated(run: Recording, name: str) -> list[tuple[float, float]]:
    """A metric of the held-out evaluations, the base's as of step 0; without those in which it is no number."""
    base = [(0.0, b.get(f"heldout/{name}")) for b in run.of_kind("baseline")]
    told = base + [(float(e["step"]), e.get(name)) for e in run.of_kind("eval")]
    return [(step, float(value)) for step, value in told if isinstance(value, int | float)]
