"""What a page is made of, and the curves that several panels draw: runs of one method are one curve with a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rekindle.report.recording import Recording

MOST_POINTS = 160
"""Points a curve has at most: longer runs are averaged over equal stretches, and the chart says so."""
SEP = " · "
"""Between a run and a part of it, in the name of a curve."""
Point = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A Vega-Lite specification without data URL, and what it shows in a sentence, for those who do not see it."""

    title: str
    spec: Mapping[str, Any]
    says: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; a cell is text or a number."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A section of the page. missing: what to record, where there is nothing to show or not all of it."""

    id: str
    title: str
    lead: str = ""
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    missing: Sequence[str] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def distinct(runs: Sequence[Recording]) -> list[Recording]:
    """The runs under names of their own: those of one name have the folders above them put before it."""
    names = [run.name for run in runs]
    depth = 1
    while len(set(names)) < len(names) and depth < max(len(run.folder.resolve().parts) for run in runs):
        depth += 1
        twice = {name for name in names if names.count(name) > 1}
        longer = ["/".join(run.folder.resolve().parts[-depth:]) for run in runs]
        names = [more if name in twice else name for name, more in zip(names, longer, strict=True)]
    pairs = zip(runs, names, strict=True)
    return [run if run.name == name else replace(run, name=name, method=renamed(run, name)) for run, name in pairs]


def renamed(run: Recording, name: str) -> str:
    """The method of a run under a new name; a run whose method is not known is its own."""
    return name if run.method == run.name else run.method


def groups_of(runs: Sequence[Recording]) -> dict[str, list[Recording]]:
    """What is drawn in one colour -> its runs: seeds of one method together, if several methods or seeds are there."""
    if len(runs) == 1:
        return {runs[0].name: [runs[0]]}
    found: dict[str, list[Recording]] = {}
    for run in runs:
        found.setdefault(label_of(run, runs), []).append(run)
    return found


def label_of(run: Recording, runs: Sequence[Recording]) -> str:
    """How a run is called in a chart: by its method, or by its name where a method's runs are no mere seeds."""
    same = [other for other in runs if other.method == run.method]
    if len(same) == 1 or differ_by_seed_only(same):
        return run.method
    return run.name


def differ_by_seed_only(runs: Sequence[Recording]) -> bool:
    """Whether the options are the same but for seed and folder, and every seed is there once."""
    plain = [{k: v for k, v in run.options.items() if k not in ("seed", "out")} for run in runs]
    seeds = [run.seed for run in runs]
    return all(options == plain[0] for options in plain) and len(set(seeds)) == len(seeds) and bool(plain[0])


def averaged(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: means over stretches of equal length."""
    if len(points) <= most:
        return list(points)
    parts = np.array_split(np.asarray(points, dtype=float), most)
    return [(float(part[:, 0].mean().round(2)), float(part[:, 1].mean())) for part in parts]


def banded(groups: Mapping[str, Sequence[Sequence[tuple[float, float]]]]) -> list[Point]:
    """Rows of a chart: x, y (the mean over the group's runs), low and high (their range), n (runs), group."""
    rows: list[Point] = []
    for group, curves in groups.items():
        at: dict[float, list[float]] = {}
        for x, y in (point for curve in curves for point in averaged(curve)):
            if np.isfinite(y):
                at.setdefault(x, []).append(y)
        for x in sorted(at):
            values = at[x]
            row = {"x": x, "y": sig(np.mean(values)), "group": group, "n": len(values)}
            rows.append(row | ({"low": sig(min(values)), "high": sig(max(values))} if len(curves) > 1 else {}))
    return rows


def sig(value: Any, digits: int = 5) -> float:
    """A number with so many significant digits: what a chart can show, and no more bytes."""
    return float(f"{float(value):.{digits}g}")


def metric_curves(runs: Sequence[Recording], name: str) -> dict[str, list[list[tuple[float, float]]]]:
    """Group -> the runs' curves of a metric of the steps; groups without it are left out."""
    found = {g: [r.series(name) for r in own if r.series(name)] for g, own in groups_of(runs).items()}
    return {group: [[(float(x), y) for x, y in c] for c in curves] for group, curves in found.items() if curves}


def first_and_last(points: Sequence[tuple[int, float]], share: float = 0.1) -> tuple[float, float]:
    """Means over the first and the last tenth of a curve: a single step is noisy."""
    values = [y for _, y in points]
    count = max(1, round(len(values) * share))
    return float(np.mean(values[:count])), float(np.mean(values[-count:]))
