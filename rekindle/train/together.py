"""What the ranks of a run do together in a step: score a batch, clip the gradient, see that none has drifted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rekindle.core.method import Descent
from rekindle.core.ranks import Ranks, Together, shared
from rekindle.core.schedules import plain
from rekindle.core.types import Batch, Need, Now
from rekindle.errors import GuardStop
from rekindle.tokens.lora import Weights
from rekindle.tokens.packing import distinct
from rekindle.tokens.policy import prompts_of
from rekindle.train.shard import whole

LOOKED_AT = 4
"""Tensors whose sums are compared after an update; every update looks at the next ones."""


@runtime_checkable
class Scores(Protocol):
    """A policy that scores with gradient, and columns without."""

    def __call__(self, batch: Batch, joint: Sequence[Need] = (), references: Mapping[str, Weights] = ...) -> Now:
        """Log-probs and entropies of the actions."""
        ...

    def columns(
        self, batch: Batch, needs: Sequence[Need], references: Mapping[str, Weights], micro_batch: int = 32
    ) -> dict[str, Tensor]:
        """Column name -> values of what the needs ask for."""
        ...


def shared_columns(
    policy: Scores,
    batch: Batch,
    needs: Sequence[Need],
    references: Mapping[str, Any],
    micro_batch: int,
    ranks: Together,
) -> dict[str, Tensor]:
    """The policy's columns, its micro-batches shared by the ranks: the same pieces, and so the same bits."""
    if ranks.count == 1 or not needs:
        return policy.columns(batch, needs, references, micro_batch=micro_batch)
    order = torch.argsort(distinct(prompts_of(batch))[1], stable=True)

    def score(rows: Tensor) -> dict[str, Tensor]:
        part = batch.take(rows.to(batch.mask.device))
        return policy.columns(part, needs, references, micro_batch=micro_batch)

    said = shared(order.split(micro_batch), score, ranks)
    back = torch.argsort(order).to(batch.mask.device)
    return {name: torch.cat([one[name] for one in said])[back] for name in said[0]}


def clip(parameters: Sequence[Tensor], limit: float) -> float:
    """Scale the gradients down to a global norm of `limit`; the norm that they had."""
    return whole(torch.nn.utils.clip_grad_norm_(parameters, limit)).item()


def at_rates(optimizer: torch.optim.Optimizer, descent: Descent) -> None:
    """Give the parameters, and the heads beside them, the learning rates of this step."""
    rates = (descent.lr, descent.lr if descent.head_lr is None else descent.head_lr)
    for group, lr in zip(optimizer.param_groups, rates, strict=False):
        group["lr"] = plain(lr)


def refuse_drift(named: Sequence[tuple[str, Tensor]], step: int, index: int, norm: float, ranks: Together) -> None:
    """GuardStop naming a tensor that is not the same on all ranks after update `index` of `step`, or the gradient.

    Compares the gradient's norm and the sums of `LOOKED_AT` tensors, of others at the next update; of weights in
    shares, which exist once and cannot drift apart, the norm.
    """
    if ranks.count == 1:
        return
    first, most = (step + index) * LOOKED_AT, 0 if ranks.sharded else LOOKED_AT
    some = dict(named[(first + i) % len(named)] for i in range(min(most, len(named))))
    _compare({"gradient norm": norm} | _sums(some), f"after update {index} of step {step}", ranks)


def refuse_unlike(batch: Batch, step: int, ranks: Ranks) -> None:
    """GuardStop naming a column of a step's batch that is not the same on all ranks."""
    if ranks.count == 1:
        return
    columns = {"action": batch.action, "mask": batch.mask, "uid": batch.uid, "success": batch.success}
    columns |= {"graded": batch.graded, "score": batch.score}
    columns |= {name: value for name, value in batch.extra.items() if isinstance(value, Tensor)}
    _compare({"rows": float(len(batch))} | _sums(columns), f"in the batch of step {step}", ranks)


def _sums(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: tensor.detach().double().sum().item() for name, tensor in tensors.items()}


def _compare(mine: Mapping[str, float], where: str, ranks: Ranks) -> None:
    told = ranks.exchange(dict(mine))
    for name in sorted({name for one in told for name in one}):
        values = [repr(one.get(name)) for one in told]  # nan is like nan
        if len(set(values)) > 1:
            raise GuardStop(
                f"the ranks drifted apart: {where} the sum of '{name}' is {', '.join(values)} on ranks 0 to "
                f"{ranks.count - 1}; they run on unlike machines or versions, or something that they compute each for "
                "itself is not reproducible: --resume goes on from the last checkpoint, with equal weights on all"
            )
