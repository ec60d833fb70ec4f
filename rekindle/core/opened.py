"""A step that has begun: all that its remaining updates depend on besides weights, optimiser and memory."""

from __future__ import annotations

from dataclasses import dataclass

from rekindle.core.types import Batch, Metrics


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """The credited batch of a step, its metrics so far, and how many of its updates are done."""

    batch: Batch
    metrics: Metrics
    done: int = 0
