"""What all reward functions share: where the run is, what a function logs, what it said, and how a library calls it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from rekindle.core.types import Metrics
from rekindle.errors import InputError
from rekindle.tokens.rollouts import Rollouts

SHOWN = 40
"""Characters of a value that is no number, in a sentence about it."""


@dataclass(frozen=True)
class TrainerState:
    """The part of `transformers.TrainerState` that TRL's reward functions read; any other name is an error.

    global_step: steps that are done (a step may hold several updates). max_steps: of the run. epoch: prompts drawn so
    far over prompts there are, None where their number is not known.
    """

    global_step: int = 0
    max_steps: int = 0
    epoch: float | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True


@dataclass(eq=False)
class Progress:
    """Where the run is. The run sets it before each step; reward functions read it as `trainer_state`."""

    state: TrainerState = field(default_factory=TrainerState)

    def at(self, step: int, steps: int, epoch: float | None = None) -> None:
        """`step` of `steps` steps are done."""
        self.state = TrainerState(global_step=step, max_steps=steps, epoch=epoch)


@dataclass(eq=False)
class Log:
    """What one function logs while it judges one batch of `size` rows: TRL's `log_extra` and `log_metric`.

    prompts: the id of each row's prompt, for sentences that name it.
    """

    name: str
    size: int
    prompts: Sequence[str] = ()
    columns: dict[str, list[Any]] = field(default_factory=dict)
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)

    def extra(self, column: str, values: Iterable[Any]) -> None:
        """Keep a column of the rollouts, one value a row."""
        given = list(values)
        if len(given) != self.size:
            raise InputError(
                f"reward '{self.name}': log_extra('{column}') got {len(given)} values for {self.size} completions: "
                "give one a completion"
            )
        self.columns[column] = given

    def prompt(self, row: int) -> str:
        """' for prompt ID', nothing where it is not known."""
        return f" for prompt '{self.prompts[row]}'" if row < len(self.prompts) else ""

    def metric(self, name: str, value: Any) -> None:
        """Log a number; several of one name are averaged."""
        plain = scalar(value)
        found = floating(plain) if isinstance(plain, bool | int | float) else None
        if found is None or not math.isfinite(found):
            shown = repr(plain) if found is None else found
            raise InputError(f"reward '{self.name}': log_metric('{name}') got {shown}: log a finite number")
        total, count = self.metrics.get(name, (0.0, 0.0))
        self.metrics[name] = (total + found, count + 1.0)


@dataclass(frozen=True)
class Call:
    """One call of a reward function: the rows that it judges, and the arguments.

    offered: handed over where the function names them or takes any keyword. spare: only where it names them.
    """

    rows: tuple[int, ...]
    offered: Mapping[str, Any]
    spare: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """What a function said of one row.

    worth: what success is told by, where it is not the reward (OpenRLHF's score). logged: what else it returned.
    """

    reward: float | None = None
    worth: float | None = None
    logged: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Convention(Protocol):
    """How a library calls its reward functions, and what they return."""

    def calls(self, rollouts: Rollouts, state: TrainerState, log: Log, names: Sequence[str]) -> list[Call]:
        """The calls that judge a batch; a row that is in none is not graded. names: the columns of the data."""
        ...

    def cells(self, name: str, call: Call, answer: Any, log: Log) -> Sequence[Cell]:
        """What one call said, row by row; InputError naming function and row."""
        ...


@dataclass(frozen=True)
class Told:
    """What one function said of a batch: a cell a row, columns for the rollouts, and metrics (without its name)."""

    cells: Sequence[Cell]
    columns: Mapping[str, Sequence[Any]]
    metrics: Metrics

    @property
    def rewards(self) -> list[float | None]:
        """One reward a row, None where the function does not apply."""
        return [cell.reward for cell in self.cells]


def gather(calls: Sequence[Call], answers: Sequence[Sequence[Cell]], log: Log) -> Told:
    """What all calls of one function said."""
    cells = [Cell()] * log.size
    for call, said in zip(calls, answers, strict=True):
        for row, cell in zip(call.rows, said, strict=True):
            cells[row] = cell
    keys = dict.fromkeys(key for cell in cells for key in cell.logged)
    logged = {key: [cell.logged.get(key) for cell in cells] for key in keys}
    metrics: Metrics = {key: pair for key, values in logged.items() if (pair := _mean(values))[1]}
    columns = {key: tidy(values) for key, values in {**logged, **log.columns}.items()}
    return Told(cells, columns, {**metrics, **log.metrics})


def _mean(values: Sequence[Any]) -> tuple[float, int]:
    plain = [scalar(value) for value in values]
    numbers = [floating(value) for value in plain if isinstance(value, bool | int | float)]
    finite = [value for value in numbers if math.isfinite(value)]
    return float(sum(finite)), len(finite)


def scalar(value: Any) -> Any:
    """A tensor or array as Python's own number, or list where it has several; anything else as it is."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value.tolist()
    if isinstance(value, np.generic | np.ndarray):
        return value.item() if value.size == 1 else value.tolist()
    return value


def floating(value: Any) -> float:
    """`float(value)`, of an integer that is too large for one infinity."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def tidy(values: Sequence[Any]) -> list[Any]:
    """A column of one kind, as a file can hold it: truth values, numbers (floats), or texts; None stays."""
    plain = [scalar(value) for value in values]
    known = [value for value in plain if value is not None]
    if all(isinstance(value, bool) for value in known):
        return plain
    if all(isinstance(value, bool | int | float) for value in known):
        return [None if value is None else floating(value) for value in plain]
    return [None if value is None else str(value) for value in plain]


def number(name: str, row: int, value: Any, log: Log) -> float | None:
    """A reward as a float, None as it is; InputError naming function, row and prompt for anything else, nan and inf."""
    if value is None:
        return None
    try:
        found = None if isinstance(value, str | bytes | bytearray) else floating(value)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None:
        shown = f"{type(value).__name__} ({' '.join(repr(value).split())[:SHOWN]})"
        raise InputError(f"reward '{name}', row {row}: returned a {shown}{log.prompt(row)}: return a number or None")
    if not math.isfinite(found):
        raise InputError(
            f"reward '{name}', row {row}: returned {found}{log.prompt(row)}: return a finite number or None"
        )
    return found
