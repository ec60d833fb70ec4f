"""What a side says about a case, and our side: the loss by the exact update itself, on log-probs that are leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.judge.cases import Case
from rekindle import methods
from rekindle.core.descend import backward
from rekindle.core.method import PolicyGradient
from rekindle.core.types import Batch, Now
from rekindle.train.options import override, show


@dataclass(frozen=True)
class Said:
    """advantage [B T], loss, its gradient with respect to logp, entropy and value [3 B T]; None: not compared."""

    advantage: Tensor | None = None
    loss: float | None = None
    gradient: Tensor | None = None


@dataclass(frozen=True)
class Leaves:
    """A policy whose log-probs are leaves: rows are found by uid, so that micro-batches may come in any order."""

    uid: Tensor
    said: Tensor  # [3 B T] logp, entropy, value

    def __call__(self, batch: Batch) -> Now:
        """The leaves' rows."""
        rows = (batch.uid[:, None] == self.uid[None, :]).long().argmax(dim=1)
        logp, entropy, value = self.said[:, rows].unbind()
        return Now(logp=logp, entropy=entropy, extra={"value": value})


def leaves(case: Case) -> Tensor:
    """logp, entropy and value [3 B T], the leaf that gradients are taken of."""
    return torch.stack([case.logp, case.entropy, case.value]).requires_grad_()


def record(slug: str, options: Mapping[str, Any] | None = None, **slots: Any) -> PolicyGradient:
    """The method's record with other parts in `slots`, then other numbers at dotted paths."""
    made = methods.load(slug).method().replace(**slots)
    for path, value in (options or {}).items():
        made = override(made, path, value)
    return made.at(0.0)


def advantage(method: PolicyGradient, case: Case) -> Said:
    """The method's advantages on the case's scores."""
    return Said(advantage=method.credit(case.batch).advantage)


def loss(method: PolicyGradient, case: Case, pieces: int = 1) -> Said:
    """Loss and gradient on the case's own advantages, in `pieces` micro-batches."""
    leaf = leaves(case)
    size = -(-len(case.batch) // pieces)
    value, _, _ = backward(Leaves(case.batch.uid, leaf), case.batch, method, size)
    return Said(loss=value, gradient=leaf.grad)


def terms(method: PolicyGradient, case: Case) -> Said:
    """Loss and gradient of the terms alone: the method's own credit, then every advantage 0."""
    return loss(method, with_batch(case, without(method.credit(case.batch))))


def whole(method: PolicyGradient, case: Case) -> Said:
    """The method from scores to gradient."""
    credited = method.credit(case.batch)
    said = loss(method, with_batch(case, credited))
    return Said(credited.advantage, said.loss, said.gradient)


def flags(method: PolicyGradient, *slots: str) -> str:
    """The parts in `slots` as a user would print them."""
    shown = []
    for slot in slots:
        part = dict(vars(method))[slot]
        shown += [show(p) for p in part] if isinstance(part, tuple) else [show(part)]
    return "; ".join(shown)


def without(batch: Batch) -> Batch:
    """The batch with every advantage 0."""
    return batch.with_columns(advantage=torch.zeros_like(batch.advantage))


def with_batch(case: Case, batch: Batch) -> Case:
    """The case with another batch."""
    return replace(case, batch=batch)
