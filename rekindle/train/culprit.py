"""Which part made a loss or a gradient that is no finite number: the first in the order of the update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from rekindle.core.method import PolicyGradient
from rekindle.core.types import Batch, Now
from rekindle.errors import GuardStop
from rekindle.train.guards import NAMED, Hole, column_hole, hole, stopped
from rekindle.train.quarantine import not_finite, quarantine

if TYPE_CHECKING:
    from rekindle.train.run import Run

DIVERGED = (
    "the policy's own log-probs broke: lower descent.lr or set descent.grad_clip=1, in a new run (--model CHECKPOINT)"
)
LOSS = "lower descent.lr or look at the scores and at that part, in a new run (--model CHECKPOINT)"


def refuse_not_finite(
    run: Run, part: Batch, now: Now, method: PolicyGradient, index: int, loss: float, norm: float
) -> None:
    """GuardStop before the optimiser's step where loss, gradient norm or a live log-prob is no finite number.

    It names the first part in the order of the update that holds one. All ranks call it, with equal numbers.
    """
    said = hole("the policy's log-prob", now.logp, part)
    if math.isfinite(loss) and math.isfinite(norm) and said is None:
        return
    found = said or in_loss(part, now, method)  # what was asked for has been looked at before the pass
    if found is not None:
        raise stopped(run, part, now, index, found, DIVERGED if found is said else LOSS)
    where = run.ranks.exchange(quarantine(run.folder, run.step_index, index, part, now))[0]
    names = broken_gradients(run.trainable())
    more = f" (first in that of '{names[0]}', of {len(names)} tensors)" if names else ""
    raise not_finite(run.step_index, index, loss, norm, where, more)


def in_loss(part: Batch, now: Now, method: PolicyGradient) -> Hole | None:
    """The first hole in what the loss is made of: ratios, weights, the values of the objective and of the terms."""
    now = now.detach()
    with torch.no_grad():
        for name, values in (("the policy's entropy", now.entropy), *now.extra.items()):
            if (found := hole(name, values, part)) is not None:
                return found
        found = hole("the ratio pi / pi_old", (now.logp - part.logp_old).exp(), part)
        if found is not None:
            return found
        weighed = method.weigh(part, now)
        return _valued(weighed, now, method) or column_hole(part, list(part.extra))


def _valued(weighed: Batch, now: Now, method: PolicyGradient) -> Hole | None:
    """The hole in the weights, or in the values that they weigh: where a weight is 0 no value counts."""
    pieces = [(type(method.objective).__name__, "weight", method.objective(now, weighed)[0])]
    for i, term in enumerate(method.terms):
        pieces.append((type(term).__name__, f"weight_{i}", term.per_token(now, weighed)[0]))
    for name, column, values in pieces:
        weights = weighed.column(column)
        counted = torch.where(weights != 0, values, 0.0)
        for what, tensor in ((f"the weight of {name}", weights), (f"the loss of {name}", counted)):
            if (found := hole(what, tensor, weighed)) is not None:
                return found
    return None


def broken_gradients(named: Sequence[tuple[str, torch.nn.Parameter]]) -> list[str]:
    """The tensors whose gradient (here: this rank's share) holds a number that is not finite."""
    return [name for name, p in named if p.grad is not None and not torch.isfinite(_local(p.grad)).all()]


def refuse_overflow(run: Run) -> None:
    """GuardStop after a step, before it is saved, that left a weight or a moment of the optimiser that is not finite.

    A norm screens (one read of the memory); only where it is not finite the numbers are counted.
    """
    tensors = {name: _local(p.detach()) for name, p in run.trainable()}
    for name, parameter in run.trainable():
        for key, value in run.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.dim():
                tensors[f"{name} ({key} of the optimiser)"] = _local(value)
    some = [tensor for tensor in tensors.values() if tensor.numel()]
    sound = not some or bool(torch.isfinite(torch.nn.utils.get_total_norm(some)))
    if run.ranks.sharded:
        sound = all(run.ranks.exchange(sound))
    if sound:
        return
    broken = {name: int((~torch.isfinite(tensor)).sum()) for name, tensor in tensors.items()}
    names = [f"{name} in {count} of {tensors[name].numel()} numbers" for name, count in broken.items() if count]
    told = [name for one in run.ranks.exchange(names) for name in one] if run.ranks.sharded else names
    if told:
        raise GuardStop(
            f"step {run.step_index} left weights that are not finite: {', '.join(told[:NAMED])} "
            f"({len(told)} tensors); lower descent.lr or set descent.grad_clip=1, in a new run (--model CHECKPOINT)"
        )


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
