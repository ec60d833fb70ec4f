"""Whether updates, and only they, change the weights: sums of bits around each update, one read of the memory each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from rekindle.core.method import PolicyGradient
from rekindle.core.schedules import plain
from rekindle.core.types import Batch
from rekindle.errors import GuardStop
from rekindle.train.guards import NAMED

if TYPE_CHECKING:
    from rekindle.train.run import Run

MARKS, CAUSES = "marks", "causes"
"""In `run.live`: the marks after the last update. In `run.watched`: why each update of this step changed nothing."""
MOVED = ""
"""The cause of an update that changed the weights."""

Marks = dict[str, int]


def marks(run: Run) -> Marks:
    """A number for every tensor that trains, which changes with any of its bits (here: of this rank's share)."""
    named = run.trainable()
    if not named:
        return {}
    sums = torch.stack([mark(tensor.detach()).cpu() for _, tensor in named])
    return dict(zip((name for name, _ in named), sums.tolist(), strict=True))


def mark(tensor: Tensor) -> Tensor:
    """The sum of the tensor's bits as whole numbers, modulo 2**64: in words of 8 bytes where it has such."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    size = local.element_size()
    words = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    whole = local.numel() * size % 8 == 0
    return local.contiguous().view(-1).view(torch.int64 if whole else words[size]).sum()


def marked_before(run: Run, index: int) -> Marks:
    """The marks before update `index`; GuardStop where something wrote into the weights since the last update.

    Looked at before a step's first update. A run that has just begun, or goes on, has nothing to compare with.
    """
    known: Marks | None = run.live.get(MARKS)
    if known is not None and index:
        return known
    found = marks(run)
    changed = [name for name in found if known is not None and known.get(name) != found[name]]
    told = [name for one in run.ranks.exchange(changed) for name in one] if run.ranks.sharded else changed
    if told:
        names = list(dict.fromkeys(told))
        raise GuardStop(
            f"step {run.step_index}: {len(names)} of {len(found)} tensors changed since the last update, though "
            f"nothing but an update may write into them: {', '.join(names[:NAMED])}; look at what runs "
            "between steps (rewards, parts of the method, hooks), then --resume goes on from the last checkpoint"
        )
    return found


def note_moved(run: Run, part: Batch, method: PolicyGradient, index: int, before: Marks, norm: float) -> None:
    """Keep the marks after update `index`, and why it changed nothing where it did not though the batch has signal."""
    after = marks(run)
    run.live[MARKS] = after
    causes = run.watched.get(CAUSES, []) if index else []
    still = norm == 0.0 or after == before
    if run.ranks.sharded:
        still = all(run.ranks.exchange(still))
    cause = why(run, part, method, norm) if still and method.signal(part)[0] else MOVED
    run.watched[CAUSES] = [*causes, cause]
    if cause == FOREIGN:
        raise GuardStop(f"step {run.step_index}: update {index} changed no weight: {FOREIGN}; {REMEDIES[FOREIGN]}")


FOREIGN = "the optimiser holds none of the tensors that train"
ZERO_RATE = "the learning rate is 0"
NO_WEIGHT = "every loss weight is 0, though advantages are not"
NO_GRADIENT = "the gradient is 0, though advantages are not"
TOO_SMALL = "the update is smaller than the weights' number format can hold"
REMEDIES = {
    FOREIGN: "make it over the parameters of the run (Run.trainable), or unfreeze those that it holds",
    ZERO_RATE: "set descent.lr above 0",
    NO_WEIGHT: "look at the method's aggregate and keep",
    NO_GRADIENT: "look at the objective (is all of it clipped or masked?) and at what is frozen",
    TOO_SMALL: "raise descent.lr, or train in float32",
}
"""Why an update changed nothing -> what to do."""


def why(run: Run, part: Batch, method: PolicyGradient, norm: float) -> str:
    """The cause, surest first."""
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for _, p in run.trainable()):
        return FOREIGN
    if norm == 0.0:
        return NO_WEIGHT if not method.keep and _unweighed(part, method) else NO_GRADIENT
    return ZERO_RATE if plain(method.descent.lr) == 0.0 else TOO_SMALL


def _unweighed(part: Batch, method: PolicyGradient) -> bool:
    weighed = method.weigh(part)
    columns = ["weight", *(f"weight_{i}" for i in range(len(method.terms)))]
    return not any((weighed.column(name) != 0).any() for name in columns)
