"""A method is a record of parts. `PolicyGradient.step` reads as the algorithm box; the trainer knows no method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from rekindle.core.aggregate import Aggregate, TokenMean
from rekindle.core.random import uniforms
from rekindle.core.schedules import Scalar, resolve
from rekindle.core.types import LOGP_OLD, Batch, Metrics, Need, Now, Rows, Update, add_metrics


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known about a method: its source, its parent, how far it equals the paper, where its numbers come from.

    essence: the slots that are the paper's idea (a profile may not touch them).
    status: "exact" (checked against an independent implementation or full formulas), "close" (something had to be
    inferred) or "partial". sources: dotted slot -> where the number comes from; one equal to the parent's inherits it.
    version: rises when defaults or numerics change.
    """

    title: str
    summary: str
    authors: str
    year: int
    arxiv: str | None
    code: str | None
    parent: str | None
    essence: tuple[str, ...]
    status: str
    deviations: tuple[str, ...]
    version: int
    sources: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Collect(Protocol):
    """Run -> Batch."""

    def __call__(self, run: Any) -> Batch:
        """A batch with every column that the run's record needs."""
        ...


@runtime_checkable
class Advantage(Protocol):
    """Batch -> A [B T] without gradient, on the whole batch. `needs_group`: a group of one has no advantage."""

    needs_group: ClassVar[bool]

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages, 0 off live positions."""
        ...


@runtime_checkable
class Objective(Protocol):
    """(Now, Batch) -> (per-token loss [B T], metrics). `separable`: a token's loss depends on its own row only."""

    separable: ClassVar[bool]

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """The loss of each token, and metrics as sums and counts."""
        ...


@runtime_checkable
class TokenTerm(Protocol):
    """A term that is a weighted sum over tokens: its weights are taken once a minibatch, over its own mask."""

    separable: ClassVar[bool]
    needs: ClassVar[tuple[Need, ...]]

    def weights(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The weight of each token of a minibatch."""
        ...

    def per_token(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """What is weighted, and metrics as sums and counts."""
        ...


@runtime_checkable
class Prepare(Protocol):
    """Batch -> Batch, once, on the whole batch before the split. `needs`: the columns it reads."""

    needs: ClassVar[tuple[Need, ...]]

    def __call__(self, batch: Batch) -> Batch:
        """The batch with more columns."""
        ...


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How a collected batch becomes optimiser updates (AdamW).

    epochs: passes over the batch. minibatches: updates an epoch; whole prompts go to a minibatch unless `cut_groups`.
    micro_batch: sequences a forward pass (memory only: it never changes the update). lr: a number, or a schedule over
    the steps of the run. grad_clip: largest global gradient norm, 0 = off.
    """

    epochs: int = 1
    minibatches: int = 4
    micro_batch: int = 64
    cut_groups: bool = False
    lr: Scalar = 1e-6
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.01
    grad_clip: float = 1.0

    def split(self, batch: Batch) -> Iterator[Batch]:
        """The minibatches of every epoch, each a random share of the prompts (or of the rows, with `cut_groups`)."""
        unit = batch.uid if self.cut_groups else batch.group
        ids, index = unit.unique(return_inverse=True)
        for epoch in range(self.epochs):
            # Keyed by the unit's own id, so that the row order of the batch cannot change the split.
            draw = uniforms(batch.key + 1 + epoch, ids, 1)[:, 0]
            for part in torch.argsort(draw).tensor_split(min(self.minibatches, len(ids))):
                yield batch.take(torch.isin(index, part).nonzero()[:, 0])


def unchanged(batch: Batch, run: Any) -> Batch:
    """The source of a purely on-policy method."""
    return batch


def weighted_sum(weights: Float[Tensor, "B T"], per_token: Float[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Sum of weights * per_token; where the weight is 0 neither the value (it may be inf) nor its gradient counts."""
    return (weights * torch.where(weights != 0, per_token, 0.0)).sum()


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """A policy-gradient method: one value a slot. A child is `parent.method().replace(slot=...)`."""

    collect: Collect
    source: Callable[[Batch, Any], Batch] = unchanged
    prepare: tuple[Prepare, ...] = ()
    advantage: Advantage
    modulate: tuple[Callable[[Tensor, Batch], Tensor], ...] = ()
    objective: Objective
    keep: tuple[Callable[[Now, Batch], Tensor], ...] = ()
    aggregate: Aggregate = field(default_factory=TokenMean)
    terms: tuple[TokenTerm, ...] = ()
    after: tuple[Callable[[Any, Update], None], ...] = ()
    descent: Descent = field(default_factory=Descent)

    def step(self, run: Any) -> Metrics:
        """Collect, credit, descend. Returns the metrics of all updates as (sum, count) pairs."""
        batch = run.gather(self.source(self.collect(run), run))
        batch = self.credit(batch)
        metrics: Metrics = {}
        parts = list(self.descent.split(batch))
        for index, part in enumerate(parts):
            update = replace(run.descend(part, self, index), last=index + 1 == len(parts))
            metrics = add_metrics(metrics, update.metrics)
            for write in self.after:
                write(run, update)
        return metrics

    @property
    def methods(self) -> tuple[PolicyGradient, ...]:
        """The methods that a run of this record takes steps of: this one (`Stages` has several)."""
        return (self,)

    def at(self, progress: float) -> PolicyGradient:
        """This record at `progress` (0 at the first step of a run, 1 at the last), schedules as plain numbers."""
        return resolve(self, progress)

    def needs(self) -> tuple[Need, ...]:
        """Every column that the parts want from a scoring pass at rollout weights, each once."""
        wanted = [LOGP_OLD, *(n for part in (*self.prepare, *self.terms) for n in part.needs)]
        return tuple(dict.fromkeys(wanted))

    def credit(self, batch: Batch) -> Batch:
        """The batch with `advantage` filled, and whatever `prepare` adds: both on the whole batch, before the split."""
        for prepare in self.prepare:
            batch = prepare(batch)
        advantage = self.advantage(batch)
        for modulate in self.modulate:
            advantage = modulate(advantage, batch)
        return batch.with_columns(advantage=advantage.detach())

    @property
    def separable(self) -> bool:
        """Whether the loss is a fixed weighted sum over tokens, so that one pass per micro-batch is exact."""
        return self.objective.separable and not self.keep and all(term.separable for term in self.terms)

    def weigh(self, batch: Batch, now: Now | None = None) -> Batch:
        """The minibatch with its weight columns, fixed before any micro-batching. `now` is needed by `keep` only."""
        kept = batch.live
        for keep in self.keep:
            if now is None:
                raise ValueError("a method with `keep` is weighed by the whole minibatch's log-probs: pass `now`")
            kept = kept & keep(now, batch)
        columns: dict[str, Tensor | Rows] = {"weight": self.aggregate(batch, kept)}
        columns |= {f"weight_{i}": term.weights(batch) for i, term in enumerate(self.terms)}
        return batch.with_columns(**columns)

    def loss(self, now: Now, batch: Batch) -> tuple[Float[Tensor, ""], Metrics]:
        """The loss of a weighed batch, or of any rows of it: the losses of the pieces add up to that of the whole."""
        values, metrics = self.objective(now, batch)
        pieces = [(type(self.objective).__name__, "weight", values)]
        for i, term in enumerate(self.terms):
            values, more = term.per_token(now, batch)
            metrics = add_metrics(metrics, more)
            pieces.append((type(term).__name__, f"weight_{i}", values))
        total = torch.zeros((), dtype=values.dtype)
        for part, column, values in pieces:
            weights = batch.column(column)
            value = weighted_sum(weights, values)
            total = total + value
            metrics = add_metrics(metrics, {f"loss/{part}": (value.item(), weights.sum().item())})
        return total, metrics

    def replace(self, **slots: Any) -> PolicyGradient:
        """A copy with other parts in `slots`."""
        return replace(self, **slots)
