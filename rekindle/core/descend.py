"""The exact update: the gradient of a minibatch does not depend on how it is cut into micro-batches.

A separable loss (a fixed weighted sum over tokens) takes one pass, since its weights were taken over the minibatch.
Any other loss takes two: log-probs of the whole minibatch without gradient, the loss on these leaves, then every
micro-batch is run again and backpropagates `(d loss / d output * output).sum()`. All of this happens on the device of
the batch: whatever device the policy computes on, its `Now` comes back to that of the batch.

Several ranks share the micro-batches. What each says is exchanged, so that all know the log-probs of the whole
minibatch; their gradients are summed afterwards (`core.ranks.sum_gradients`), never averaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rekindle.core.ranks import Alone, Together, in_order, shared, turns
from rekindle.core.types import Batch, Metrics, Now, Policy, add_metrics


@runtime_checkable
class Loss(Protocol):
    """The part of a method that the update needs (`PolicyGradient` has it)."""

    @property
    def separable(self) -> bool:
        """Whether the losses of the pieces of a weighed minibatch add up to that of the whole."""
        ...

    def weigh(self, batch: Batch, now: Now | None = None) -> Batch:
        """The minibatch with its weight columns."""
        ...

    def loss(self, now: Now, batch: Batch) -> tuple[Float[Tensor, ""], Metrics]:
        """The loss of a weighed batch."""
        ...


def backward(
    policy: Policy,
    batch: Batch,
    method: Loss,
    micro_batch: int,
    *,
    two_pass: bool | None = None,
    fresh: bool = False,
    ranks: Together | None = None,
) -> tuple[float, Now, Metrics]:
    """Add the gradient of the method's loss on `batch` to the policy's parameters: of the pieces of this rank.

    micro_batch: sequences a forward pass, at least 1. two_pass: None takes one pass where the loss is separable.
    fresh: the weights are still those of `logp_old`. A batch without that column then takes it from this update's own
    pass, and where the loss looks at the whole minibatch the first pass takes its place: rounding differs by 1e-7, and
    |logp - logp_old| would turn that into a full-size random gradient. ranks: None is one process. Whether a loss has a
    gradient must not depend on the values in a piece: sharded ranks would wait for each other.
    Returns the loss, what the policy said (detached, rows as in `batch`) and the metrics, on every rank the same.
    """
    if two_pass is None:
        two_pass = not method.separable
    elif not two_pass and not method.separable:
        raise ValueError("one pass is exact only for a separable loss")
    pieces, ranks = list(micro_batches(batch, micro_batch)), ranks or Alone()
    if two_pass:
        return _two_passes(policy, batch, method, pieces, fresh, ranks)
    return _one_pass(policy, batch, method, pieces, fresh and "logp_old" not in batch.extra, ranks)


def _one_pass(
    policy: Policy, batch: Batch, method: Loss, pieces: list[Tensor], own: bool, ranks: Together
) -> tuple[float, Now, Metrics]:
    batch = method.weigh(batch)
    mine: list[tuple[int, tuple[float, Metrics, Now]]] = []
    for turn in turns(len(pieces), ranks):
        piece = batch.take(pieces[turn.piece])
        now = policy(piece)
        piece = piece.with_columns(logp_old=now.logp.detach()) if own else piece
        loss, more = method.loss(now, piece)
        if loss.requires_grad:
            loss.backward(torch.zeros_like(loss) if turn.idle else None)
        if not turn.idle:
            mine.append((turn.piece, (loss.item(), more, now.detach())))
    total, metrics, said = 0.0, Metrics(), []
    for value, more, now in in_order(mine, ranks):
        total, metrics = total + value, add_metrics(metrics, more)
        said.append(now)
    return total, _join(said, torch.cat(pieces)), metrics


def _two_passes(
    policy: Policy, batch: Batch, method: Loss, pieces: list[Tensor], fresh: bool, ranks: Together
) -> tuple[float, Now, Metrics]:
    with torch.no_grad():
        said = shared(pieces, lambda rows: policy(batch.take(rows)), ranks)
    now = _join(said, torch.cat(pieces))
    if fresh:
        batch = batch.with_columns(logp_old=now.logp)
    leaves = {"logp": now.logp, "entropy": now.entropy, **now.extra}
    leaves = {name: value.detach().requires_grad_() for name, value in leaves.items()}
    leaf = Now(logp=leaves["logp"], entropy=leaves["entropy"], extra={n: leaves[n] for n in now.extra})
    loss, metrics = method.loss(leaf, method.weigh(batch, leaf.detach()))
    if not loss.requires_grad:
        return loss.item(), now, metrics
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    for turn in turns(len(pieces), ranks):
        rows = pieces[turn.piece]
        again = policy(batch.take(rows))
        outputs = {"logp": again.logp, "entropy": again.entropy, **again.extra}
        pairs = [(outputs[n], g[rows]) for n, g in zip(leaves, grads, strict=True) if g is not None]
        live = [(output, torch.zeros_like(g) if turn.idle else g) for output, g in pairs if output.requires_grad]
        torch.autograd.backward([o for o, _ in live], [g for _, g in live])
    return loss.item(), now, metrics


def micro_batches(batch: Batch, size: int) -> Iterator[Int[Tensor, " N"]]:
    """Row indices in pieces of at most `size`: rows of a group side by side, the group with the longest row first.

    A policy that computes a shared prompt once finds its rows in one piece, and a piece holds little padding.
    """
    if size < 1:
        raise ValueError(f"a micro-batch holds at least one sequence, not {size}")
    mask = batch.mask
    place = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    last = torch.where(mask, place, 0).amax(dim=1) if len(place) else batch.uid * 0
    group = batch.group.unique(return_inverse=True)[1]
    longest = last.new_zeros(len(batch) + 1).scatter_reduce(0, group, last, "amax")[group]
    order = torch.argsort(last, descending=True, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    yield from order[torch.argsort(longest[order], descending=True, stable=True)].split(size)


def _join(said: list[Now], order: Int[Tensor, " B"]) -> Now:
    back = torch.argsort(order)
    extra = {name: torch.cat([now.extra[name] for now in said])[back] for name in said[0].extra}
    return Now(
        logp=torch.cat([now.logp for now in said])[back],
        entropy=torch.cat([now.entropy for now in said])[back],
        extra=extra,
    )
