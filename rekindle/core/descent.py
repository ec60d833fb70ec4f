"""How a collected batch becomes optimiser updates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from rekindle.core.random import uniforms
from rekindle.core.schedules import Scalar
from rekindle.core.types import Batch

_UPDATE = 1 << 32  # keys of updates lie this far apart: the split of an epoch uses those right above a step's


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How a collected batch becomes optimiser updates (AdamW).

    epochs: passes over the batch. minibatches: updates an epoch; whole prompts go to a minibatch unless `cut_groups`.
    micro_batch: sequences a forward pass (memory only: it never changes the update). lr: a number, or a schedule over
    the steps of the run; head_lr: of heads that parts ask for (None: lr). grad_clip: largest global norm, 0 = off.
    """

    epochs: int = 1
    minibatches: int = 4
    micro_batch: int = 64
    cut_groups: bool = False
    lr: Scalar = 1e-6
    head_lr: Scalar | None = None
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.01
    grad_clip: float = 1.0

    def split(self, batch: Batch) -> Iterator[Batch]:
        """The minibatches of every epoch, each a random share of the prompts (or of the rows, with `cut_groups`).

        Each has a key of its own, or an objective that draws would favour the same tokens in every epoch.
        """
        unit = batch.uid if self.cut_groups else batch.group
        ids, index = unit.unique(return_inverse=True)
        for epoch in range(self.epochs):
            # Keyed by the unit's own id, so that the row order of the batch cannot change the split.
            draw = uniforms(batch.key + 1 + epoch, ids, 1)[:, 0]
            for i, part in enumerate(torch.argsort(draw).tensor_split(min(self.minibatches, len(ids)))):
                key = batch.key + _UPDATE * (1 + epoch * self.minibatches + i)
                yield replace(batch.take(torch.isin(index, part).nonzero()[:, 0]), key=key)
