"""How large one term's gradient is beside that of everything else: exact norms, in the space of the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rekindle.core.method import weighted_sum
from rekindle.core.slots import TokenTerm
from rekindle.core.types import Batch, Metrics, Policy


@runtime_checkable
class Watched(Protocol):
    """A term that can be watched."""

    watch: bool


def watched(
    policy: Policy, batch: Batch, terms: Sequence[TokenTerm], parameters: Sequence[Tensor], micro_batch: int
) -> Metrics:
    """Norms of the gradients of the terms whose `watch` is on; {} where there are none.

    To be called after the backward pass and before clipping: `grad` holds the gradient of the whole loss. Costs one
    more pass over the rows that a watched term weighs. `grad/TERM` is the norm of its gradient; `grad_ratio/TERM` its
    sum over updates over that of the norms of the rest.
    """
    metrics: Metrics = {}
    for term in terms:
        if isinstance(term, Watched) and term.watch:
            own, rest = _norms(policy, batch, term, parameters, micro_batch)
            name = type(term).__name__
            metrics |= {f"grad/{name}": (own, 1.0), f"grad_ratio/{name}": (own, rest)}
    return metrics


def _norms(
    policy: Policy, batch: Batch, term: TokenTerm, parameters: Sequence[Tensor], micro_batch: int
) -> tuple[float, float]:
    weights = term.weights(batch)
    rows = (weights != 0).any(dim=1).nonzero()[:, 0]
    own = [torch.zeros_like(p) for p in parameters]
    for piece in rows.split(micro_batch) if len(rows) else ():
        part = batch.take(piece)
        loss = weighted_sum(weights[piece], term.per_token(policy(part), part)[0])
        for sum_, grad in zip(own, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            if grad is not None:
                sum_ += grad
    whole = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    return _norm(own), _norm([all_ - mine for all_, mine in zip(whole, own, strict=True)])


def _norm(tensors: Sequence[Tensor]) -> float:
    return torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt().item()
