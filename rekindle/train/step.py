"""One step of a run, whoever takes it: the loop that trains, or a replay of what it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rekindle.core.types import Metrics, mean_metrics
from rekindle.train.matching import SAID
from rekindle.train.meter import alarms

if TYPE_CHECKING:
    from rekindle.train.run import Run


@dataclass(frozen=True)
class Taken:
    """What a step says: the values of its event, and what the first one should not have shown."""

    values: dict[str, float]
    warned: list[str]


def one_step(run: Run, take: Callable[[], Metrics]) -> Taken:
    """Resolve schedules, let `take` collect and update, and count the step."""
    steps = run.resolved.config.steps
    run.seconds, run.last_rollouts, run.drawn = {}, [], 0
    if run.reopened is None:
        for name in ("credits", SAID):
            run.live.pop(name, None)
    run.record = record_of(run, run.step_index)
    if run.verifier.rewards is not None:
        run.verifier.rewards.progress.at(run.step_index, steps, run.memory["prompts"] / len(run.examples))
    metrics = take()
    values = {**mean_metrics(run.observed), **mean_metrics(metrics), "responses": float(run.drawn)}
    warned = alarms(run.observed) if not run.step_index else []
    run.observed = {}
    run.step_index += 1
    run.memory["empty_steps"] = 0 if metrics["signal"][0] else run.memory["empty_steps"] + 1
    return Taken(values, warned)


def record_of(run: Run, index: int) -> Any:
    """The record of step `index` (from 0), schedules resolved to numbers."""
    return run.method.at(index / max(1, run.resolved.config.steps - 1))
