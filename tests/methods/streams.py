"""Prompts without a model: a stream over a fixed list with a memory, and runs of methods on the bed of difficulties."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rekindle.core.method import PolicyGradient
from rekindle.core.random import pack_key
from rekindle.prove.beds import load_bed
from rekindle.prove.run import TableRun
from rekindle.tokens.rollouts import Example


@dataclass(eq=False)
class Stream:
    """Prompts "0" .. in order, around and around."""

    total: int = 10
    step_index: int = 0
    group_size: int = 4
    memory: dict[str, Any] = field(default_factory=lambda: {"prompts": 0, "history": {}})

    @property
    def key(self) -> Tensor:
        return pack_key(0, self.step_index, 0)

    def next_examples(self, count: int) -> list[Example]:
        first = self.memory["prompts"]
        self.memory["prompts"] += count
        return [Example(str(i % self.total), "x") for i in range(first, first + count)]


def table_run(method: PolicyGradient, seed: int = 0, **options: Any) -> TableRun:
    """A run of `method` on the bed `spread`: 40 prompts of every difficulty unless said otherwise."""
    bed = load_bed("spread").with_options({"questions": 40, "prompts": 8, "group": 4, "lr": 0.1, **options})
    return TableRun(bed.task.world(seed), bed.setting, bed.setting.fitted(method), seed)


def table_of(run: TableRun) -> Tensor:
    """The weights, as they are now."""
    return torch.cat([p.detach().flatten().clone() for p in run.policy.parameters()])
