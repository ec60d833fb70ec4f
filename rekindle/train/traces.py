"""What the watch remembers of a run: the numbers of its first steps, of its last ones, and of all its evaluations.

It lies in `run.watched` as plain JSON, bounded in the number of steps, and is all that the signals see: a run that is
resumed sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rekindle.train.sections_watch import Watch

WATCHED = (
    *("entropy", "groups/dead", "answers/distinct", "answers/majority", "repetition", "length", "truncated"),
    *("score", "score/lowest", "update_kl_k3", "clip_high", "clip_low"),
)
"""Metrics of steps that signals read; none of them looks at the truth in a label-free run."""
PASS, MAJ, HELD_OUT = "pass@", "maj@", "heldout/"
Row = Mapping[str, float | int]


def watched_metric(name: str) -> bool:
    """Whether a signal may read the metric `name` of a step or of an evaluation."""
    return name in WATCHED or name.startswith((PASS, MAJ))


@dataclass(frozen=True)
class Level:
    """A mean over steps: its value, and the last of these steps."""

    value: float
    step: int


@dataclass(frozen=True)
class Trace:
    """Rows {"step": ..., metric: value}, oldest first. evals hold the entropy and the score of their step, too.

    The start model's evaluation is that of step 0, and has neither. free: nothing but the evaluations knows the truth.
    evaluated: there are held-out evaluations, or some are to come.
    """

    first: Sequence[Row]
    last: Sequence[Row]
    evals: Sequence[Row]
    free: bool
    evaluated: bool

    def start(self, name: str) -> Level | None:
        """The mean of a metric over the first steps; None where none of them has it."""
        return mean(self.first, name)

    def now(self, name: str, watch: Watch) -> Level | None:
        """The mean over the last `watch.smooth` steps, of those after the start; None before there are any."""
        later = [row for row in self.last if row["step"] > self.first[-1]["step"]]
        return mean(later[-watch.smooth :], name)

    def highest(self, name: str, watch: Watch) -> Level | None:
        """The largest mean over `watch.smooth` steps in a row among the last `watch.slope_steps`."""
        width = watch.smooth
        recent = self.last[-(watch.slope_steps + width) :]
        found = [mean(recent[i : i + width], name) for i in range(max(0, len(recent) - width + 1))]
        return max((level for level in found if level is not None), key=lambda level: level.value, default=None)

    def held_out(self, prefix: str) -> str | None:
        """The metric of the evaluations with the largest k: `pass@16`, `maj@16`; None where there is none."""
        ks = [int(name.removeprefix(prefix)) for row in self.evals for name in row if name.startswith(prefix)]
        return f"{prefix}{max(ks)}" if ks else None


def mean(rows: Sequence[Row], name: str) -> Level | None:
    """The mean of a metric over the rows that have it."""
    found = [row for row in rows if name in row]
    return Level(fmean(row[name] for row in found), int(found[-1]["step"])) if found else None


def fresh(evaluated: bool = False) -> dict[str, Any]:
    """The memory of a watch that has seen nothing. active: signal -> step at which its episode began."""
    return {"first": [], "last": [], "evals": [], "active": {}, "evaluated": evaluated}


def remember(memory: dict[str, Any], record: Mapping[str, Any], watch: Watch) -> None:
    """Put the record of a step, of an evaluation or of the start model's baseline into the memory of a watch."""
    if record["kind"] == "baseline":
        memory["evals"] += start_evaluation(record)
        return
    row = {name: value for name, value in record.items() if watched_metric(name) and isinstance(value, int | float)}
    row = {"step": record["step"], **row}
    if record["kind"] == "eval":
        there = {name: mean(memory["last"][-watch.smooth :], name) for name in ("entropy", "score")}
        row |= {name: level.value for name, level in there.items() if level is not None}
        memory["evals"].append(row)
        return
    if len(memory["first"]) < watch.start:
        memory["first"].append(row)
    memory["last"] = [*memory["last"], row][-(watch.slope_steps + watch.smooth) :]


def start_evaluation(record: Mapping[str, Any]) -> list[Row]:
    """The evaluation of step 0 in a record `baseline`; none where nothing was evaluated held out."""
    held = {name.removeprefix(HELD_OUT): value for name, value in record.items() if name.startswith(HELD_OUT)}
    row = {name: value for name, value in held.items() if name.startswith((PASS, MAJ))}
    return [{"step": 0, **row}] if row else []


def seen(memory: Mapping[str, Any], free: bool) -> Trace:
    """What a watch remembers, for the signals."""
    return Trace(memory["first"], memory["last"], memory["evals"], free, memory["evaluated"])
