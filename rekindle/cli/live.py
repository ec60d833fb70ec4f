"""What a run shows while it goes on, fed with its records: a panel on a terminal, one line a step elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, TextIO, runtime_checkable

from rekindle.cli.common import say

RECENT = 10
"""Steps whose seconds tell the time that is left."""
NAMES = {
    "entropy": "entropy",
    "success": "success",
    "vote/majority_share": "majority",
    "truth/label_accuracy": "label accuracy",
    "truth/reward_accuracy": "reward accuracy",
    "score": "score",
    "data/score": "data score",
    "nll": "nll",
    "groups/dead": "dead groups",
}
"""Metric -> its name on screen, in the order of a step's line. Votes and their truth are there in label-free runs."""


@runtime_checkable
class View(Protocol):
    """Takes every record of a run, between entering and leaving."""

    def __call__(self, record: dict[str, Any]) -> None:
        """Take one record in."""
        ...

    def __enter__(self) -> View: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass
class Watch:
    """What the records of a run have told so far. steps: of the whole run; entropy, seconds: one value a step."""

    title: str
    steps: int
    step: int = 0
    last: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, Any] = field(default_factory=dict)
    evaluated: Mapping[str, Any] = field(default_factory=dict)
    sample: Mapping[str, Any] = field(default_factory=dict)
    entropy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take one record in; kinds that nothing is shown of are passed over."""
        kind = record["kind"]
        if kind in ("step", "resume"):
            self.step = record["step"]
        if kind == "step":
            self.last = record
            self.entropy.append(record.get("entropy") or 0.0)
            self.seconds.append(record["time"]["seconds"])
        elif kind == "baseline":
            self.start = record
        elif kind == "eval":
            self.evaluated = record
        elif kind == "sample":
            self.sample = record

    @property
    def left(self) -> float | None:
        """Seconds that are left if steps go on as the last ones did; None before the first."""
        recent = self.seconds[-RECENT:]
        return (self.steps - self.step) * sum(recent) / len(recent) if recent else None


def number(value: Any) -> str:
    """A metric with three decimals; `-` where there is none."""
    return "-" if value is None else f"{value:.3f}"


def to_beat(start: Mapping[str, Any]) -> tuple[str, float] | None:
    """The start model's maj@k with the largest k there is: the line that a label-free run has to beat."""
    found = {int(name.removeprefix("start/maj@")): name for name in start if name.startswith("start/maj@")}
    if not found:
        return None
    return f"maj@{max(found)}", start[found[max(found)]]


def line(record: Mapping[str, Any], steps: int) -> str | None:
    """One record as a line of plain text, None where a line would tell nothing."""
    kind = record["kind"]
    if kind == "step":
        return step_line(record, steps)
    if kind == "note":
        return f"note: {record['text']}"
    if kind == "resume":
        return f"resumed after step {record['step']}"
    if kind == "eval":
        values = {name: value for name, value in record.items() if name.startswith(("pass@", "maj@"))}
        return f"evaluation after step {record['step']}  " + "  ".join(f"{n} {number(v)}" for n, v in values.items())
    beat = to_beat(record) if kind == "baseline" else None
    if beat is None:
        return None
    return f"start model  pass@1 {number(record['start/pass@1'])}  {beat[0]} {number(beat[1])} (the line to beat)"


def step_line(record: Mapping[str, Any], steps: int) -> str:
    """`step 3/80  entropy 0.109  success 0.620  ...  1234 tokens/s  2.1 s`."""
    said = [f"{name} {number(record[key])}" for key, name in NAMES.items() if key in record]
    time = record["time"]
    place = f"step {record['step']:>{len(str(steps))}}/{steps}"
    return "  ".join([place, *said, f"{time['tokens_per_s']:.0f} tokens/s", f"{time['seconds']:.1f} s"])


def put(text: str) -> None:
    """Print a line, at once; where nobody reads stdout any more, say so once: what goes on needs no reader."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _to_nowhere(sys.stdout)
        try:
            say("nobody reads the output any more: the run goes on without it; events.jsonl has every step")
        except BrokenPipeError:
            _to_nowhere(sys.stderr)


def _to_nowhere(stream: TextIO) -> None:
    """Let the stream's file take, and forget, what is buffered and what comes after."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


class PlainLines:
    """One line a step on stdout, for files and pipes."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, record: dict[str, Any]) -> None:
        """Print the record's line, at once."""
        text = line(record, self.steps)
        if text is not None:
            put(text)

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def open_view(title: str, steps: int) -> View:
    """The view that fits stdout."""
    if not sys.stdout.isatty():
        return PlainLines(steps)
    from rekindle.cli.panel import LivePanel

    return LivePanel(Watch(title, steps))
