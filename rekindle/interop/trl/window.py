"""An exact update whose micro-batches another trainer backpropagates one by one: `core.descend` turned inside out.

A window is all micro-batches of one optimiser step. Its weights are made once, from all of its rows. A separable loss
is then cut into pieces that add up to it. Any other is computed on the log-probs of the whole window as leaves, and a
piece is what has the same gradient: `(derivative * output).sum()`, with the piece's share of the loss as its value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rekindle.core.method import PolicyGradient
from rekindle.core.types import Batch, Metrics, Now, add_metrics


@dataclass
class Window:
    """The weighed rows of an update. derivative: of the loss by each output [B T]; None for a separable loss.

    own: the batch has no `logp_old`, and takes that of each piece. metrics: of the pieces so far.
    """

    record: PolicyGradient
    batch: Batch
    own: bool
    derivative: dict[str, Tensor] | None = None
    value: float = 0.0
    metrics: Metrics = field(default_factory=dict)

    def piece(self, now: Now, uid: Int[Tensor, " N"]) -> Float[Tensor, ""]:
        """What the rows `uid` of the window add to its loss; its gradients add up to that of the whole."""
        rows = (self.batch.uid == uid[:, None]).int().argmax(dim=1)
        part = self.batch.take(rows)
        live = part.live
        count = float(live.sum().item())
        entropy = {"entropy": (now.entropy.detach().where(live, 0.0).sum().item(), count)}
        self.metrics = add_metrics(self.metrics, entropy)
        if self.derivative is not None:
            outputs = {"logp": now.logp, "entropy": now.entropy}
            pairs = [(outputs[name], values[rows]) for name, values in self.derivative.items()]
            total = torch.stack([(output * values).sum() for output, values in pairs]).sum()
            return total - total.detach() + self.value * len(rows) / len(self.batch)
        part = part.with_columns(logp_old=now.logp.detach()) if self.own else part
        loss, metrics = self.record.loss(now, part)
        self.metrics = add_metrics(self.metrics, metrics)
        return loss


def opened(record: PolicyGradient, batch: Batch, fresh: bool, said: Callable[[], Sequence[Now]]) -> Window:
    """The window of an update on `batch`, which has its advantages.

    fresh: no update came since the batch was sampled. said: what the policy says of the window's rows, piece by piece
    in the order of `batch`; it is asked, without gradient, only where the loss is not separable.
    """
    if record.separable:
        return Window(record, record.weigh(batch), own="logp_old" not in batch.extra)
    with torch.no_grad():
        pieces = said()
    logp, entropy = torch.cat([now.logp for now in pieces]), torch.cat([now.entropy for now in pieces])
    if fresh or "logp_old" not in batch.extra:
        batch = batch.with_columns(logp_old=logp)
    leaves = {"logp": logp.detach().requires_grad_(), "entropy": entropy.detach().requires_grad_()}
    now = Now(logp=leaves["logp"], entropy=leaves["entropy"])
    batch = record.weigh(batch, now.detach())
    loss, metrics = record.loss(now, batch)
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True) if loss.requires_grad else (None, None)
    zero = torch.zeros_like(logp)
    derivative = {name: zero if g is None else g for name, g in zip(leaves, found, strict=True)}
    return Window(record, batch, False, derivative, loss.item(), metrics)
