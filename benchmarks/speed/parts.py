"""(g) Where the time of a step goes, logging included: seconds of each part, without the parts inside it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import rekindle.train.update
from benchmarks.speed import ours
from benchmarks.speed.models import SIZES, make_prompts, write_folder
from benchmarks.speed.profile import operators
from benchmarks.speed.step import JOBS, PROMPT_TOKENS
from benchmarks.speed.training import batch_of, update
from rekindle.tokens.verify import Verifier
from rekindle.train.events import EventLog
from rekindle.train.loop import train
from rekindle.train.run import Run

PARTS: tuple[str, ...] = (
    "sample",
    "score",
    "forward and backward",
    "rest of update",
    "grading",
    "metrics",
    "logging",
    "other",
)
PLACES = (
    (Run, "sample", "sample"),
    (Run, "score", "score"),
    (rekindle.train.update, "backward", "forward and backward"),
    (Run, "descend", "rest of update"),
    (Verifier, "verify", "grading"),
    (Run, "observe", "metrics"),
    (EventLog, "write", "logging"),
)


class Clock:
    """Seconds by part; while a part runs inside another, only the inner one's clock goes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._stack = ["other"]
        self._last = time.perf_counter()

    def switch(self) -> None:
        """Book the time since the last switch on the part that is running."""
        now = time.perf_counter()
        self.seconds[self._stack[-1]] += now - self._last
        self._last = now

    def around(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, timed as `part`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self._stack.append(part)
            try:
                return work(*args, **kwargs)
            finally:
                self.switch()
                self._stack.pop()

        return timed


@contextmanager
def timed_parts() -> Iterator[Clock]:
    """The functions of `PLACES` report to the clock that this gives."""
    clock = Clock()
    with ExitStack() as stack:
        for owner, name, part in PLACES:
            stack.enter_context(patch.object(owner, name, clock.around(part, vars(owner)[name])))
        yield clock
        clock.switch()


def measure(name: str, pairs: int, work: Path) -> dict[str, Any]:
    """Medians over steps of the training loop itself, with its event log."""
    size, job = SIZES[name], JOBS.get(name, ours.Job())
    folder = write_folder(work / "model", size, make_prompts(size.vocab, 4 * job.prompts, *PROMPT_TOKENS))
    run = ours.make(folder, job)
    ours.step(run)
    found: list[dict[str, float]] = []
    with EventLog(work / "events.jsonl") as log:
        for _ in range(pairs):
            config = replace(run.resolved.config, steps=run.step_index + 1)
            run.resolved = replace(run.resolved, config=config)
            with timed_parts() as clock:
                train(run, None, log, lambda _: None)
            found.append(clock.seconds)
    seconds = {part: statistics.median(row[part] for row in found) for part in PARTS}
    return {"seconds": seconds, "steps": pairs, "profile": profile(run)}


def profile(run: Run) -> dict[str, dict[str, float]]:
    """Operators of sampling and of one update (loss and gradient) of a further step."""
    kept: list[Any] = []
    sample = operators(lambda: kept.append(batch_of(run)))
    ((batch, lengths),) = kept
    return {"sample": sample, "update": operators(partial(update, run, batch, run.record, lengths))}
