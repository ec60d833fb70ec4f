"""Numbers that change over a run: a field typed `Scalar` holds one number or a schedule, resolved before each step."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable


@runtime_checkable
class Schedule(Protocol):
    """A number as a function of progress: 0 at the first step of a run, 1 at the last."""

    def value(self, progress: float) -> float:
        """The number at `progress`; ValueError where it is not in 0 .. 1."""
        ...


Scalar = float | int | Schedule
"""A plain number or a schedule of one."""

Record = TypeVar("Record")


@dataclass(frozen=True)
class Constant:
    """The same number throughout."""

    level: float

    def value(self, progress: float) -> float:
        """`level`."""
        _check(progress)
        return self.level


@dataclass(frozen=True)
class Linear:
    """A straight line from `start` to `end`."""

    start: float
    end: float

    def value(self, progress: float) -> float:
        """start + (end - start) * progress."""
        return self.start + (self.end - self.start) * _check(progress)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine wave from `start` to `end`: flat at both ends."""

    start: float
    end: float

    def value(self, progress: float) -> float:
        """end + (start - end) * (1 + cos(pi * progress)) / 2."""
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * _check(progress))) / 2


@dataclass(frozen=True)
class Warmup:
    """A straight line from 0 to the first value of `then` over `fraction` of the run; `then` over the rest."""

    fraction: float
    then: Scalar

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ValueError(f"a warm-up takes a fraction of the run from 0 up to below 1, not {self.fraction}")

    def value(self, progress: float) -> float:
        """The warm-up line before `fraction`, then `then` stretched over what is left."""
        if _check(progress) < self.fraction:
            return at(self.then, 0.0) * progress / self.fraction
        return at(self.then, (progress - self.fraction) / (1 - self.fraction))


def at(scalar: Scalar, progress: float) -> float:
    """The number that `scalar` is at `progress`."""
    return scalar.value(progress) if isinstance(scalar, Schedule) else float(scalar)


def plain(scalar: Scalar) -> float:
    """`scalar` where it is a number; TypeError where it is a schedule that nobody resolved."""
    if isinstance(scalar, Schedule):
        raise TypeError(f"{scalar} is a schedule: call resolve(record, progress) before the parts of a record are used")
    return float(scalar)


def resolve(record: Record, progress: float) -> Record:
    """`record` with every schedule in its tree of dataclasses and tuples replaced by the number at `progress`.

    A subtree without a schedule is returned as it is, not copied.
    """
    return _resolve(record, progress)


def _resolve(node: Any, progress: float) -> Any:
    if isinstance(node, type):
        return node
    if isinstance(node, Schedule):
        return node.value(progress)
    if type(node) is tuple:
        new = tuple(_resolve(item, progress) for item in node)
        return node if all(a is b for a, b in zip(new, node, strict=True)) else new
    if dataclasses.is_dataclass(node):
        return _resolve_fields(node, progress)
    return node


def _resolve_fields(node: Any, progress: float) -> Any:
    have = {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.init}
    changed = {n: new for n, old in have.items() if (new := _resolve(old, progress)) is not old}
    return dataclasses.replace(node, **changed) if changed else node


def _check(progress: float) -> float:
    if not 0 <= progress <= 1:
        raise ValueError(f"progress runs from 0 to 1, not {progress}: divide the step by the number of steps")
    return progress
