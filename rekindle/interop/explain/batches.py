"""How many rows a minibatch and a forward pass have: what other trainers ask for in place of minibatches."""

from __future__ import annotations

from dataclasses import dataclass

from rekindle.core.descent import Descent
from rekindle.interop.explain.said import Place
from rekindle.train.settings import written_draws


@dataclass(frozen=True)
class Cut:
    """A step's rows: `prompts` x `group`, in `minibatches` of `rows` each, which take `pieces` of `micro` rows.

    even: whether all minibatches have as many rows; where not, `rows` are those of most. ranks: processes that share
    a minibatch; shared: whether they can, in equal numbers of rows. Where not, the cut is that of one process.
    """

    prompts: int
    group: int
    minibatches: int
    rows: int
    micro: int
    even: bool
    ranks: int
    shared: bool

    @property
    def pieces(self) -> int:
        """Forward passes a minibatch, of all processes together."""
        return self.rows // self.micro

    @property
    def accumulated(self) -> int:
        """Forward passes a minibatch of each process."""
        return self.pieces // self.ranks if self.shared else self.pieces


def cut(descent: Descent, place: Place) -> Cut:
    """The cut of the run that `place` is in; `micro`: the largest divisor of a process's rows up to the micro-batch."""
    rollout = place.config.rollout
    units = rollout.prompts * (rollout.group if descent.cut_groups else 1)
    minibatches = min(descent.minibatches, units)
    rows = rollout.prompts * rollout.group // minibatches
    if not descent.cut_groups:
        rows = max(rollout.prompts // minibatches, 1) * rollout.group
    ranks, shared = place.config.ranks, rows % place.config.ranks == 0
    each = rows // ranks if shared else rows
    micro = next(n for n in range(min(descent.micro_batch, each), 0, -1) if each % n == 0)
    return Cut(rollout.prompts, rollout.group, minibatches, rows, micro, units % minibatches == 0, ranks, shared)


def sampled(place: Place) -> bool:
    """Whether the run draws its responses; those of others are in the data."""
    return not written_draws(place.record)
