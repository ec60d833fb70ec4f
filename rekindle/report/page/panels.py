"""What a page is made of, and the curves that several panels draw: runs of one method are one curve with a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from rekindle.report.recording import Recording

MOST_POINTS = 160
"""Points a curve has at most: longer runs are averaged over equal stretches, and the chart says so."""
SEP = " · "
"""Between a run and a part of it, where a curve is named."""
Point = dict[str, Any]
Curve = Sequence[tuple[float, float]]
Key = tuple[str, str]
"""A run, or what is drawn in one colour, and a part of it, which has a dash."""


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


def banded(groups: Mapping[str, Sequence[Curve]] | Mapping[Key, Sequence[Curve]]) -> list[Point]:
    """Rows of a chart: x, y (the mean over the group's runs), low and high (their range), n (runs), `cells(key)`.

    stretch: 0, 1, ...: anew wherever other runs go on than before; left out where all go all the way. alone: True
    on a row that is a stretch by itself.
    """
    rows: list[Point] = []
    for key, curves in groups.items():
        kept = [c for c in ([p for p in curve if np.isfinite(p[1])] for curve in curves) if c]
        if not kept:
            continue
        xs, ys = together(kept)
        there = np.isfinite(ys)
        stretch = np.cumsum([0, *(there[:, 1:] != there[:, :-1]).any(axis=0)])
        for i, x in enumerate(xs):
            values = ys[there[:, i], i]
            row = {"x": x, "y": sig(np.mean(values)), **cells(key), "n": len(values)}
            row |= {"stretch": int(stretch[i])} if stretch[-1] else {}
            row |= {"alone": True} if stretch[-1] and (stretch == stretch[i]).sum() == 1 else {}
            rows.append(row | ({"low": sig(min(values)), "high": sig(max(values))} if len(kept) > 1 else {}))
    return rows


def part_of(runs: Sequence[Recording], group: str, part: str) -> Key:
    """The key of a part's curve: where nothing else is on the page, the parts are what is coloured."""
    return (group, part) if len(groups_of(runs)) > 1 else (part, "")


def cells(key: str | Key) -> Point:
    """group, the name of a curve; run and part beside it where the curve is a part: a name may hold anything."""
    if isinstance(key, str) or not key[1]:
        return {"group": key if isinstance(key, str) else key[0]}
    return {"group": SEP.join(key), "run": key[0], "part": key[1]}


def together(curves: Sequence[Curve], most: int = MOST_POINTS) -> tuple[list[float], Float[np.ndarray, "R X"]]:
    """(the x that several curves share, at most `most`; the value of each curve there, NaN before and behind it).

    Between two points of a curve its line counts. Long ones are means over stretches that all curves have in common.
    """
    xs = np.unique([x for curve in curves for x, _ in curve])
    ys = np.array(
        [np.interp(xs, *np.array(sorted(dict(curve).items())).T, left=np.nan, right=np.nan) for curve in curves]
    )
    if len(xs) <= most:
        return xs.tolist(), ys
    parts = np.array_split(ys, most, axis=1)
    counts = np.array([np.isfinite(part).sum(axis=1) for part in parts])
    sums = np.array([np.nansum(part, axis=1) for part in parts])
    middles = [float(part.mean().round(2)) for part in np.array_split(xs, most)]
    return middles, np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).T


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
