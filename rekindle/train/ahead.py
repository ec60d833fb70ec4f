"""Sampling ahead of the updates, with a bounded staleness.

A window of K + 1 batches is being drawn. A step fills it up with the newest weights and trains on the oldest, so that a
batch is trained on at most K steps after the weights that drew it. Every batch is drawn by one version, and which is
settled by counting, not by the clock: an asynchronous run is as reproducible as any other.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rekindle.core.types import Metrics, add_metrics
from rekindle.errors import InputError
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.ray_sampler import Order, RaySampler
from rekindle.tokens.stream import stretch
from rekindle.train.settings import samples_per_prompt

SHARE, OLDEST = "sampler/staleness/", "sampler/staleness_max"
"""Metrics: the share of a step's batches of an age, in steps (pushes of weights); the age of the oldest of them."""


@runtime_checkable
class Ahead(Protocol):
    """Responses that are sampled while earlier ones are trained on."""

    def examples(self, run: Any, count: int) -> list[Example]:
        """The prompts of the oldest batch that is being sampled; starts others until the window is full."""
        ...

    def rollouts(self, run: Any, examples: Sequence[Example]) -> Rollouts:
        """The responses to `examples`, waiting for them if need be."""
        ...


@dataclass(frozen=True, eq=False)
class Entry:
    """A batch that is being drawn, with its place in the streams of prompts and groups."""

    order: Order
    prompts: int
    groups: int


class Window:
    """`Ahead` over a fleet. staleness: K.

    The run's memory counts what was handed to the run, never what is under way: a checkpoint loses no prompt and
    repeats none, and a run that goes on from one draws again what was under way.
    """

    def __init__(self, sampler: RaySampler, staleness: int, settings: Sampling) -> None:
        self.sampler, self.staleness, self.settings = sampler, staleness, settings
        self._window: deque[Entry] = deque()
        self._now: Entry | None = None

    def examples(self, run: Any, count: int) -> list[Example]:
        """See `Ahead`. Nothing is begun that the run's last step would not reach."""
        run.fresh()
        left = run.resolved.config.steps - run.step_index
        while len(self._window) < max(1, min(self.staleness + 1, left)):
            self._window.append(self._begun(run, count))
        self._now = entry = self._window.popleft()
        if entry.prompts != run.memory["prompts"] or entry.groups != run.memory["groups"]:
            raise InputError(
                "a part of the method draws prompts or responses of its own within the step, and ray.staleness="
                f"{self.staleness} draws ahead of it: set ray.staleness=0"
            )
        run.memory["prompts"] += count
        run.memory["groups"] += count
        return list(entry.order.examples)

    def rollouts(self, run: Any, examples: Sequence[Example]) -> Rollouts:
        """See `Ahead`. What the batch shows of the fleet goes to the run's metrics and times."""
        entry = self._now
        if entry is None or list(examples) != entry.order.examples:
            raise InputError(
                f"the method samples other prompts than it was given, and ray.staleness={self.staleness} has drawn "
                "those already: set ray.staleness=0"
            )
        began = time.perf_counter()
        rollouts, self._now = self.sampler.taken(entry.order), None
        run.seconds["sample"] = run.seconds.get("sample", 0.0) + time.perf_counter() - began
        run.drawn += len(rollouts)
        age = self.sampler.version - entry.order.version
        told = add_metrics(staleness_metrics(age, self.staleness), self.sampler.proved(entry.order.version))
        oldest = max(age, run.observed.get(OLDEST, (0.0, 1.0))[0])
        run.observed = {**add_metrics(run.observed, told), OLDEST: (float(oldest), 1.0)}
        return rollouts

    def _begun(self, run: Any, count: int) -> Entry:
        """The batch behind the last of the window, by the newest weights and the key of this step."""
        config, before = run.resolved.config, sum(len(one.order.examples) for one in self._window)
        prompts, groups = run.memory["prompts"] + before, run.memory["groups"] + before
        examples = stretch(run.examples, prompts, count, config.seed)
        n = samples_per_prompt(run.record, config.rollout)
        return Entry(self.sampler.order(examples, n, self.settings, run.key, groups), prompts, groups)


def staleness_metrics(age: int, most: int) -> Metrics:
    """Of one batch: its age in steps, and the share of batches of each age from 0 to K."""
    shares = {f"{SHARE}{k}": (float(k == age), 1.0) for k in range(most + 1)}
    return {"sampler/staleness": (float(age), 1.0), **shares}


def staleness_histogram(events: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Age in steps -> share of a run's batches, from its events; empty for a run that drew within its steps."""
    found: Counter[int] = Counter()
    total: Counter[int] = Counter()
    for event in events:
        for name, value in event.items():
            if name.startswith(SHARE):
                found[int(name.removeprefix(SHARE))] += value
                total[int(name.removeprefix(SHARE))] += 1
    return {age: found[age] / total[age] for age in sorted(total)}
