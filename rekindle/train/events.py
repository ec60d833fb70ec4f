"""events.jsonl, the single record of a run: one JSON object a line, append-only, readable while the run goes on.

Everything that holds a time stands in the object `time` of its record, so that two runs of one seed are equal once
`time` is dropped. A resumed run appends a `resume` event that names its step; readers drop what came after that step
before, and keep the last record of a (step, kind).
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from rekindle.errors import InputError
from rekindle.tokens.private import redacted
from rekindle.tokens.reading import bytes_of
from rekindle.train.durable import named

RESERVED = ("kind", "step", "time", "nonfinite")
RESUME = "resume"


@runtime_checkable
class Log(Protocol):
    """What takes the records of a run."""

    def write(
        self, kind: str, step: int, values: Mapping[str, Any], *, time: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        """Take one record and return it."""
        ...

    def resume(self, step: int, told: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Take the event that the run goes on from the checkpoint of `step`, and what else it says."""
        ...

    def sync(self) -> None:
        """Force what was written to the disk."""
        ...


class NoLog:
    """Keeps nothing: of the ranks of a run, one writes."""

    def write(
        self, kind: str, step: int, values: Mapping[str, Any], *, time: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        """The record."""
        return {"kind": kind, "step": step, **values, "time": dict(time or {})}

    def resume(self, step: int, told: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The record."""
        return self.write(RESUME, step, told or {})

    def sync(self) -> None:
        """Nothing to do."""


class EventLog:
    """Appends records to the file at `path`; each line is written at once, so that a killed run loses at most the last.

    torn: bytes of a torn last line, left by a kill, that were cut off when the file was opened. OSError where a record
    does not fit on the disk; what was written of it is taken back.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.torn = _mend(self.path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(
        self, kind: str, step: int, values: Mapping[str, Any], *, time: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        """Append one record and return it. time: whatever depends on the clock (seconds, tokens a second).

        A value that is not finite is written as null and named in `nonfinite`. Raises ValueError for a reserved name,
        TypeError for a value that JSON cannot hold.
        """
        taken = [name for name in RESERVED if name in values]
        if taken:
            raise ValueError(f"the names {', '.join(RESERVED)} of a record are taken: rename the value '{taken[0]}'")
        nonfinite: list[str] = []
        record = {"kind": kind, "step": step, **_finite(values, "", nonfinite)}
        if nonfinite:
            record["nonfinite"] = nonfinite
        record["time"] = _finite({"unix": _now(), **(time or {})}, "", [])
        self._append((json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
        return record

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.ftruncate(self._file, size)
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def resume(self, step: int, told: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Append the event that the run goes on from the checkpoint of `step`: later records so far are void.

        told: what else the record says. It counts the records that became void, and the bytes that a kill had torn;
        `lost` where there were steps, and there is no record at all.
        """
        steps = [record["step"] for record in raw_events(self.path)]
        lost = {"lost": True} if step and not steps else {}
        void = sum(1 for taken in steps if taken > step)
        return self.write(RESUME, step, {"void": void, "torn": self.torn, **lost, **(told or {})})

    def sync(self) -> None:
        """Force what was written to the disk: before a checkpoint counts as done, and at the end."""
        with named(self.path):
            os.fsync(self._file)

    def close(self) -> None:
        """Sync and close."""
        try:
            self.sync()
        finally:
            os.close(self._file)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _now() -> float:
    return round(time.time(), 3)


def _finite(value: Any, path: str, nonfinite: list[str]) -> Any:
    """A copy that JSON can hold, without secrets; paths of values that are not finite are appended to `nonfinite`."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v, f"{path}.{k}" if path else str(k), nonfinite) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v, f"{path}.{i}", nonfinite) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite.append(path)
        return None
    return redacted(value) if isinstance(value, str) else value  # keys are the program's own


def _mend(path: Path) -> int:
    """Cut off a last line without its end; gives its bytes. A whole record that only lacks the newline is kept."""
    if not path.exists():
        return 0
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole == len(data):
        return 0
    with path.open("r+b") as file:
        if _is_record(data[whole:]):
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
            return 0
        file.truncate(whole)
    return len(data) - whole


def _is_record(line: bytes) -> bool:
    return _record(line) is not None


def _record(line: bytes) -> dict[str, Any] | None:
    """The JSON object in a line, None where there is none; no log holds a NaN or an infinity."""
    try:
        held = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return held if isinstance(held, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """The valid records of a run, in order: the last of each (step, kind), nothing that a resume made void.

    Of warnings the last of each (step, what).
    A torn last line is left out (the run was killed, or is writing). Raises InputError naming the line for any other
    line that is no record, and for a file that is not there.
    """
    kept: dict[tuple[int, str, str], dict[str, Any]] = {}
    for record in raw_events(path):
        place = (record["step"], record["kind"], str(record.get("what", "")))
        if record["kind"] == RESUME:
            kept = {key: old for key, old in kept.items() if key[0] <= record["step"]}
        kept.pop(place, None)
        kept[place] = record
    return list(kept.values())


def raw_events(path: str | Path) -> Iterator[dict[str, Any]]:
    """Every record of the file as written, voided ones included."""
    lines = bytes_of(Path(path), "give a run folder's file", f"the events of a run at '{path}'").split(b"\n")
    for number, line in enumerate(lines, start=1):
        record = _record(line)
        if record is None and number == len(lines):
            return
        if record is None:
            raise InputError(
                f"{path} line {number} is no event: the file was edited or damaged; restore or delete the line"
            )
        kind, step = record.get("kind"), record.get("step")
        if not isinstance(kind, str) or not isinstance(step, int) or not 0 <= step < 2**63:
            raise InputError(
                f"{path} line {number} lacks a 'kind' (text) or 'step' (number): restore or delete the line"
            )
        yield record


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records without `time`: what two runs of one seed have in common."""
    return [{name: value for name, value in record.items() if name != "time"} for record in records]
