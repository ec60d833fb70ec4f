"""What a bed is: a world, a setting that both arms train under, and what is measured of a trained run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

from rekindle.core.evolution import Evolution
from rekindle.errors import GuardStop, InputError
from rekindle.prove.run import Setting, TableRun
from rekindle.prove.world import World
from rekindle.train.find import find_method, make_method
from rekindle.train.options import flatten, override
from rekindle.train.staged import places

LOGGED = ("train/", "max/")
"""Prefixes of metrics that are means and maxima over a run of what the method logs."""

HALF = "entropy_half"
"""The metric `entropy` once a third of the steps is done."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not among the few that are `known`: it names them all."""
    return InputError(f"unknown {kind} '{name}': there are {', '.join(known)}")


@runtime_checkable
class Task(Protocol):
    """The part of a bed that is its own: options, a world, and metrics beside those that every bed has."""

    metrics: ClassVar[tuple[str, ...]]

    def world(self, seed: int) -> World:
        """The world of one seed."""
        ...

    def measure(self, run: TableRun) -> dict[str, float]:
        """Metric -> value of a trained run."""
        ...


@runtime_checkable
class AnyBed(Protocol):
    """What runs and stored results ask of a bed."""

    @property
    def about(self) -> str:
        """One line."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that there are."""
        ...

    def with_options(self, given: Mapping[str, Any]) -> AnyBed:
        """The bed with other options."""
        ...

    def check_metric(self, metric: str) -> None:
        """InputError where no run of this bed has the metric."""
        ...

    def run(
        self, method: str, options: Mapping[str, Any], seed: int, train: bool = True, short: bool = False
    ) -> dict[str, float]:
        """Train `method` (or leave it untrained) on one seed; metric -> value."""
        ...


@dataclass(frozen=True, kw_only=True)
class Bed:
    """A task and its setting."""

    name: str
    about: str
    setting: Setting
    task: Task

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that there are, besides `train/NAME` and `max/NAME`."""
        return (*self.task.metrics, HALF, "reward", "sampled", "useful")

    def with_options(self, given: Mapping[str, Any]) -> Bed:
        """The bed with other options; InputError naming the ones it has."""
        bed = self
        for name, value in given.items():
            slot = next((s for s in ("setting", "task") if name in flatten(getattr(bed, s))), None)
            if slot is None:
                raise unknown_name(f"option of the bed '{self.name}'", name, list(self.options()))
            bed = replace(bed, **{slot: override(getattr(bed, slot), name, value)})
        return bed

    def options(self) -> dict[str, Any]:
        """Option -> value."""
        return {**flatten(self.setting), **flatten(self.task)}

    def check_metric(self, metric: str) -> None:
        """InputError where no run of this bed has the metric."""
        if metric not in self.metrics and not metric.startswith(LOGGED):
            raise unknown_name(f"metric of the bed '{self.name}'", metric, [*self.metrics, "train/NAME", "max/NAME"])

    def run(
        self, method: str, options: Mapping[str, Any], seed: int, train: bool = True, short: bool = False
    ) -> dict[str, float]:
        """Train `method` (or leave it untrained) on one seed; metric -> value.

        A run whose method finds no prompt to train on any more ends there; a `short` one after a third of its steps.
        """
        run = TableRun(self.task.world(seed), self.setting, self._record(method, options), seed)
        third, half = max(1, self.setting.steps // 3), 0.0
        while train and not run.spent():
            try:
                run.step()
            except GuardStop:
                break
            if run.step_index == third and not short:
                half = self.task.measure(run)["entropy"]
            elif run.step_index == third:
                break
        found = self.task.measure(run)
        half = found["entropy"] if short or run.step_index < third else half
        common = {
            "reward": run.recent_reward(),
            "sampled": run.sampled / 1000,
            "useful": sum(run.mixed) / max(len(run.mixed), 1),
            HALF: half,
        }
        return {**common, **found, **logged(run.trained)}

    def _record(self, method: str, options: Mapping[str, Any]) -> Any:
        record = make_method(find_method(method))
        if isinstance(record, Evolution):
            raise InputError(f"'{method}' searches an adapter, and a table has none: its bed is 'factors'")
        record = self.setting.fitted(record)
        for path, value in options.items():
            for place in places(path, record):
                record = override(record, place, value)
        return record


def logged(trained: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """`train/NAME` and `max/NAME`: means and maxima of what the method logged, step by step."""
    values: dict[str, list[float]] = {}
    for metrics in trained:
        for name, value in metrics.items():
            values.setdefault(name, []).append(value)
    means = {f"train/{name}": sum(seen) / len(seen) for name, seen in values.items()}
    return {**means, **{f"max/{name}": max(seen) for name, seen in values.items()}}
