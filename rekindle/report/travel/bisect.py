"""Bisect: the first step and tensor in which two runs differ, and what differed before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rekindle.errors import InputError
from rekindle.report.travel.checkpoints import WEIGHTS, Apart, differ_in_state, is_checkpoint, state_of_folder
from rekindle.report.travel.compared import Difference, alike, differ_in_rows, differ_in_values, rows_of_file
from rekindle.report.travel.past import Past, open_past
from rekindle.train.digests import differing

KINDS = ("prompts", "tokens", "log-probs", "scores", "trained rows", "metrics", "weights", "checkpoint")
"""What is compared, in the order in which one causes the other within a step."""
FREE = ("out", "track.sinks")
"""Options that say where a run goes, not what it does."""


@dataclass
class Bisected:
    """What tells two runs apart. configuration: name -> what it is in both. steps: of each; common: compared.

    firsts: kind -> the first difference of that kind. tensors: all that differ where weights first do. after: the last
    step whose weights are known to be equal. apart: in the first checkpoint of both from there on, of step `at`.
    notes: what could not be compared.
    """

    configuration: dict[str, tuple[Any, Any]]
    steps: tuple[int, int]
    firsts: dict[str, Difference] = field(default_factory=dict)
    tensors: list[str] = field(default_factory=list)
    after: int = 0
    apart: list[Apart] = field(default_factory=list)
    at: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def common(self) -> int:
        """Steps that both have taken."""
        return min(self.steps)

    @property
    def first(self) -> Difference | None:
        """The first difference of all; None where the runs are equal as far as both go."""
        return min(self.firsts.values(), key=lambda d: (d.step, KINDS.index(d.what)), default=None)


def bisect(a: Path, b: Path) -> Bisected:
    """Compare two run folders; InputError where one holds no run."""
    ours, theirs = open_past(a), open_past(b)
    found = Bisected(configuration(ours, theirs), (ours.steps, theirs.steps))
    if not found.common:
        raise InputError(f"{(a if not ours.steps else b)} has taken no step yet: nothing can be compared")
    last = weights(ours, theirs, found)
    for step in range(1, last + 1):
        for difference in in_step(ours, theirs, step, found):
            found.firsts.setdefault(difference.what, difference)
    return found


def checkpoints_apart(a: Path, b: Path) -> list[Apart]:
    """What differs in two checkpoint folders, the largest tensors' names as they are saved."""
    return differ_in_state(state_of_folder(a), state_of_folder(b))


def both_checkpoints(a: Path, b: Path) -> bool:
    """Whether both are checkpoint folders; InputError where one is and the other is a run."""
    kinds = [is_checkpoint(place) for place in (a, b)]
    if any(kinds) and not all(kinds):
        one, other = (a, b) if kinds[0] else (b, a)
        raise InputError(f"{one} is a checkpoint and {other} is none: give two runs, or two checkpoints")
    return all(kinds)


def configuration(ours: Past, theirs: Past) -> dict[str, tuple[Any, Any]]:
    """Options, record, versions, threads, ranks and files read: those that differ."""
    sides = [{**_options(past), **_surroundings(past)} for past in (ours, theirs)]
    names = dict.fromkeys([*sides[0], *sides[1]])
    pairs = {name: (sides[0].get(name), sides[1].get(name)) for name in names if name not in FREE}
    return {name: pair for name, pair in pairs.items() if not alike(*pair)}


def _options(past: Past) -> Mapping[str, Any]:
    return {**past.saved.options, "the method's record": past.saved.record_hash}


def _surroundings(past: Past) -> dict[str, Any]:
    versions = {f"version of {name}": value for name, value in past.saved.versions.items()}
    files = {f"contents of {name}": value[:12] for name, value in past.saved.inputs.items()}
    return {**versions, **files, "threads": past.start.get("threads"), "processes": past.ranks}


def weights(ours: Past, theirs: Past, found: Bisected) -> int:
    """Find where the weights part, by digests or else by checkpoints; the last step that can tell why."""
    told = [{step for kind, step in past.events if kind == "weights"} for past in (ours, theirs)]
    both = sorted(step for step in told[0] & told[1] if step <= found.common)
    for step in both:
        names = differing(*(past.events["weights", step] for past in (ours, theirs)))
        if names:
            found.firsts["weights"] = Difference(step, "weights", names[0])
            found.tensors = names
            break
        found.after = step
    if not both:
        found.notes.append("no step has digests of weights in both runs (checkpoint.digests): checkpoints are compared")
    by_checkpoints(ours, theirs, found)
    first = found.firsts.get("weights") or found.firsts.get("checkpoint")
    return found.common if first is None else first.step


def by_checkpoints(ours: Past, theirs: Past, found: Bisected) -> None:
    """The first checkpoint of both that differs, from the step on where digests do; how far it is apart."""
    begins = found.firsts["weights"].step if "weights" in found.firsts else 1
    steps = [s for s in range(begins, found.common + 1) if ours.checkpoint(s) and theirs.checkpoint(s)]
    if not steps and not found.tensors and not found.after:
        found.notes.append("no checkpoint is of the same step in both runs: weights are not compared")
    for step in steps:
        places = [past.checkpoint(step) for past in (ours, theirs)]
        first, second = (state_of_folder(place) for place in places if place is not None)
        apart = differ_in_state(first, second)
        if apart:
            found.apart, found.at = apart, step
            _name(found, step, apart)
            return
        found.after = max(found.after, step)


def _name(found: Bisected, step: int, apart: list[Apart]) -> None:
    names = [one.name for one in apart if one.part == WEIGHTS]
    if "weights" in found.firsts:
        return
    if names:
        found.tensors = names
        found.firsts["weights"] = Difference(step, "weights", names[0])
    else:
        found.firsts["checkpoint"] = Difference(step, "checkpoint", f"{apart[0].part} {apart[0].name}")


def in_step(ours: Past, theirs: Past, step: int, found: Bisected) -> list[Difference]:
    """What differs in what both recorded of a step: rows, and metrics."""
    paths = [past.rollouts(step) for past in (ours, theirs)]
    differ: list[Difference] = []
    if paths[0] is not None and paths[1] is not None:
        differ += differ_in_rows(step, rows_of_file(paths[0]), rows_of_file(paths[1]))
    else:
        note = "rollouts are not kept of every step in both runs: what was sampled in the others is not compared"
        found.notes += [] if note in found.notes else [note]
    mine, other = (past.events.get(("step", step), {}) for past in (ours, theirs))
    for name in differ_in_values(mine, other)[:1]:
        differ.append(Difference(step, "metrics", f"{name}: {mine.get(name)} and {other.get(name)}"))
    return differ
