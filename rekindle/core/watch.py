"""How large one term's gradient is beside that of everything else: exact norms, in the space of the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rekindle.core.method import weighted_sum
from rekindle.core.ranks import Alone, Together, sum_gradients, turns
from rekindle.core.slots import TokenTerm
from rekindle.core.types import Batch, Metrics, Policy


@runtime_checkable
class Watched(Protocol):
    """A term that can be watched."""

    watch: bool


def watched(
    policy: Policy,
    batch: Batch,
    terms: Sequence[TokenTerm],
    parameters: Sequence[Tensor],
    micro_batch: int,
    ranks: Together | None = None,
) -> Metrics:
    """Norms of the gradients of the terms whose `watch` is on; {} where there are none.

    To be called after the backward pass and before clipping: `grad` holds the gradient of the whole loss. Costs one
    more pass over the rows that a watched term weighs, shared by the ranks. `grad/TERM` is the norm of its gradient;
    `grad_ratio/TERM` its sum over updates over that of the norms of the rest.
    """
    metrics: Metrics = {}
    for term in terms:
        if isinstance(term, Watched) and term.watch:
            own, rest = _norms(policy, batch, term, parameters, micro_batch, ranks or Alone())
            name = type(term).__name__
            metrics |= {f"grad/{name}": (own, 1.0), f"grad_ratio/{name}": (own, rest)}
    return metrics


def _norms(
    policy: Policy, batch: Batch, term: TokenTerm, parameters: Sequence[Tensor], micro_batch: int, ranks: Together
) -> tuple[float, float]:
    weights = term.weights(batch)
    rows = (weights != 0).any(dim=1).nonzero()[:, 0]
    pieces = rows.split(micro_batch) if len(rows) else ()
    whole = [p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    for turn in turns(len(pieces), ranks):
        part = batch.take(pieces[turn.piece])
        loss = weighted_sum(weights[pieces[turn.piece]], term.per_token(policy(part), part)[0])
        loss.backward(torch.zeros_like(loss) if turn.idle else None)
    sum_gradients(parameters, ranks)
    own = [p.grad for p in parameters]
    for parameter, grad in zip(parameters, whole, strict=True):
        parameter.grad = grad
    rest = [_less(all_, mine) for all_, mine in zip(whole, own, strict=True)]
    return ranks.norm(_present(own)), ranks.norm(_present(rest))


def _less(whole: Tensor | None, part: Tensor | None) -> Tensor | None:
    if part is None:
        return whole
    return -part if whole is None else whole - part


def _present(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    return [t for t in tensors if t is not None]
