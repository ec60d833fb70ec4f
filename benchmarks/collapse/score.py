"""Plays stored runs to the watch, step by step, and counts what its verdict was worth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.collapse.cells import Label, labelled
from rekindle.train.collapse import look
from rekindle.train.sections_watch import Watch
from rekindle.train.traces import HELD_OUT, fresh, remember

NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Played:
    """A run as the watch saw it. warned: the step of its first verdict; signs: sign -> the step it was first told."""

    run: Mapping[str, Any]
    label: Label
    warned: int | None
    signs: Mapping[str, int]

    @property
    def lead(self) -> int | None:
        """Steps from the first verdict to the label's condition, of a run that collapsed and was warned of."""
        if not self.label.collapsed or self.warned is None or self.label.at is None:
            return None
        return self.label.at - self.warned


def records(run: Mapping[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """The records of each step: the step's, and the evaluation's where there was one."""
    evals = dict(zip(run["eval"]["step"], rows("eval", run["eval"]), strict=True))
    for row in rows("step", run["train"]):
        yield [row, evals[row["step"]]] if row["step"] in evals else [row]


def base(run: Mapping[str, Any]) -> dict[str, Any]:
    """The record of the start model's held-out evaluation."""
    return {"kind": "baseline", "step": 0, **{f"{HELD_OUT}{name}": value for name, value in run["start"].items()}}


def rows(kind: str, table: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A table of columns as records; what is None is left out."""
    names = list(table)
    lines = zip(*(table[name] for name in names), strict=True)
    return [
        {"kind": kind, **{name: value for name, value in zip(names, line, strict=True) if value is not None}}
        for line in lines
    ]


def play(run: Mapping[str, Any], watch: Watch, evaluated: bool = True) -> Played:
    """What the watch would have told of a run. evaluated: whether it hears of the held-out evaluations."""
    memory, warned, signs = fresh(evaluated), None, {}
    if evaluated:
        remember(memory, base(run), watch)
    for step in records(run):
        for record in step if evaluated else step[:1]:
            remember(memory, record, watch)
        sight = look(memory, run["free"], watch)
        for name in sight.new:
            signs.setdefault(name, step[0]["step"])
        warned = step[0]["step"] if sight.first and warned is None else warned
    return Played(run, labelled(run), warned, signs)


@dataclass(frozen=True)
class Score:
    """Counts of runs: collapsed and warned of, not collapsed and warned of, collapsed and not, neither; and leads."""

    hits: int
    false_alarms: int
    misses: int
    quiet: int
    leads: tuple[int, ...]

    @property
    def precision(self) -> tuple[int, int]:
        """(collapsed, all) of the runs that were warned of."""
        return self.hits, self.hits + self.false_alarms

    @property
    def recall(self) -> tuple[int, int]:
        """(warned of, all) of the runs that collapsed."""
        return self.hits, self.hits + self.misses


def score(played: Sequence[Played], name: str | None = None) -> Score:
    """The counts of the verdict, or of a sign alone: whether it was told of at all."""
    at = [p.warned if name is None else p.signs.get(name) for p in played]
    pairs = list(zip(played, at, strict=True))
    count = {
        (fell, told): sum(p.label.collapsed == fell and (step is not None) == told for p, step in pairs)
        for fell in (True, False)
        for told in (True, False)
    }
    leads = (
        p.label.at - step for p, step in pairs if p.label.collapsed and step is not None and p.label.at is not None
    )
    return Score(count[True, True], count[False, True], count[True, False], count[False, False], tuple(sorted(leads)))


def wilson(hits: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson (1927); (0, 1) of nothing."""
    if not total:
        return 0.0, 1.0
    z2, p = NORMAL_95**2, hits / total
    middle, half = p + z2 / (2 * total), NORMAL_95 * math.sqrt(p * (1 - p) / total + z2 / (4 * total**2))
    return max(0.0, (middle - half) / (1 + z2 / total)), min(1.0, (middle + half) / (1 + z2 / total))
