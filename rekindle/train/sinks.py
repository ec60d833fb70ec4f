"""Where events go besides events.jsonl: TensorBoard, trackio and Weights & Biases behind one small protocol."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rekindle.errors import InputError, unknown
from rekindle.train.events import RESERVED


@runtime_checkable
class Sink(Protocol):
    """Takes every event of a run."""

    def write(self, record: Mapping[str, Any]) -> None:
        """One event as it stands in events.jsonl."""
        ...

    def close(self) -> None:
        """Flush, and release what is held."""
        ...


class TensorBoard:
    """Scalars in the run folder's `tensorboard/`."""

    def __init__(self, out: Path, run: str) -> None:
        self._writer = _need("tensorboard", MODULES["tensorboard"]).SummaryWriter(log_dir=str(out / "tensorboard"))

    def write(self, record: Mapping[str, Any]) -> None:
        """Add each number of the event at its step."""
        for name, value in numbers(record):
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


class Tracker:
    """A package with the calls `init(project, name)`, `log(numbers, step)` and `finish()`: trackio, wandb."""

    def __init__(self, package: str, run: str) -> None:
        self._package = _need(package, package)
        self._package.init(project="rekindle", name=run)

    def write(self, record: Mapping[str, Any]) -> None:
        """Log the numbers of the event at its step."""
        found = dict(numbers(record))
        if found:
            self._package.log(found, step=record["step"])

    def close(self) -> None:
        """End the tracked run."""
        self._package.finish()


MODULES = {"tensorboard": "torch.utils.tensorboard"}
"""Sink -> what it imports, where that is not its own name."""
SINKS: Mapping[str, Callable[[Path, str], Sink]] = {
    "tensorboard": TensorBoard,
    "trackio": lambda out, run: Tracker("trackio", run),
    "wandb": lambda out, run: Tracker("wandb", run),
}


def needed(names: Sequence[str]) -> None:
    """InputError for an unknown sink among `names`, or one whose package is missing."""
    for name in names:
        if name not in SINKS:
            raise unknown("sink", name, SINKS)
        _need(name, MODULES.get(name, name))


def open_sinks(names: Sequence[str], out: str | Path, run: str) -> list[Sink]:
    """The sinks `names` for the run folder `out`; InputError as `needed`, before any of them is opened."""
    needed(names)
    return [SINKS[name](Path(out), run) for name in names]


def numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(kind/name, value) of each number of an event, those of its `time` included."""
    for name, value in {**record, **{f"time/{k}": v for k, v in record.get("time", {}).items()}}.items():
        if name not in RESERVED and isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{record['kind']}/{name}", float(value)


def _need(package: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"the sink '{package}' needs a package that is missing: pip install 'rekindle[track]'"
        ) from error
