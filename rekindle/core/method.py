"""A method is a record of parts. `PolicyGradient.step` reads as the algorithm box; the trainer knows no method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rekindle.core.aggregate import Aggregate, TokenMean
from rekindle.core.descent import Descent
from rekindle.core.opened import Opened
from rekindle.core.schedules import resolve
from rekindle.core.slots import Advantage, Collect, Objective, Prepare, Reporting, TokenTerm
from rekindle.core.types import LOGP_OLD, Batch, Headed, Metrics, Need, Needy, Now, Rows, Update, add_metrics


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A claim that paired seeds can show or deny: on `bed`, `metric` is more (or less) than that of `against`.

    against: another method; None = the parent, "" = the untrained start. options, against_options: of the two records,
    at the bed's scale. bed_options: of the bed; against_bed_options: of the opponent's, where they differ. within: then
    the claim is that the two differ by no more than this.
    """

    claim: str
    bed: str
    metric: str
    more: bool = True
    against: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    against_options: Mapping[str, Any] = field(default_factory=dict)
    bed_options: Mapping[str, Any] = field(default_factory=dict)
    against_bed_options: Mapping[str, Any] | None = None
    within: float | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known about a method: its source, its parent, how far it equals the paper, where its numbers come from.

    essence: the slots that are the paper's idea (a profile may not touch them), of a record of several stages those of
    any stage; sources may name an option of all its stages in the same way.
    status: "exact" (checked against an independent implementation or full formulas), "close" (something had to be
    inferred) or "partial". sources: dotted slot -> where the number comes from; one equal to the parent's inherits it.
    version: rises when defaults or numerics change. effects: what `rekindle prove` reruns.
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
    effects: tuple[Effect, ...] = ()


def weighted_sum(weights: Float[Tensor, "B T"], per_token: Float[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Sum of weights * per_token; where the weight is 0 neither the value (it may be inf) nor its gradient counts."""
    return (weights * torch.where(weights != 0, per_token, 0.0)).sum()


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """A policy-gradient method: one value a slot. A child is `parent.method().replace(slot=...)`."""

    collect: Collect
    source: tuple[Callable[[Batch, Any], Batch], ...] = ()
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
        """Collect, credit, descend. Returns the metrics of all updates as (sum, count) pairs.

        A run that was stopped between two updates goes on there: `run.opened()` is what is left of its step.
        """
        opened = run.opened() or self.opened(run)
        parts = list(self.descent.split(opened.batch))
        for index in range(opened.done, len(parts)):
            run.between(replace(opened, done=index))
            update = replace(run.descend(parts[index], self, index), last=index + 1 == len(parts))
            opened = replace(opened, metrics=add_metrics(opened.metrics, update.metrics))
            for write in self.after:
                write(run, update)
        return opened.metrics

    def opened(self, run: Any) -> Opened:
        """The batch that a step descends on, collected and credited, and what it shows."""
        batch = self.collect(run)
        for source in self.source:
            batch = source(batch, run)
        batch = self.credit(run.gather(batch))
        metrics: Metrics = {"signal": self.signal(batch)}
        for part in self.parts():
            metrics = add_metrics(metrics, part.report(batch) if isinstance(part, Reporting) else {})
        return Opened(batch=batch, metrics=metrics)

    @property
    def methods(self) -> tuple[PolicyGradient, ...]:
        """The methods that a run of this record takes steps of: this one (`Stages` has several)."""
        return (self,)

    def each(self, change: Callable[[PolicyGradient], PolicyGradient]) -> PolicyGradient:
        """This record as `change` makes it (`Stages` has several to change)."""
        return change(self)

    def at(self, progress: float) -> PolicyGradient:
        """This record at `progress` (0 at the first step of a run, 1 at the last), schedules as plain numbers."""
        return resolve(self, progress)

    def needs(self) -> tuple[Need, ...]:
        """Every column that the parts want from a scoring pass at rollout weights, each once.

        A step of one update has `logp_old` from that update's own forward pass. It is scored beforehand where there are
        more updates, where a `source` may bring other rows, or where a part reads it earlier and says so.
        """
        wanted = [need for need in self._wanted() if need.when == "rollout"]
        once = self.descent.epochs * self.descent.minibatches == 1 and not self.source
        return tuple(dict.fromkeys(wanted if once else [LOGP_OLD, *wanted]))

    def joint(self) -> tuple[Need, ...]:
        """What the parts want of every pass of the policy, each once."""
        return tuple(dict.fromkeys(need for need in self._wanted() if need.when == "now"))

    def passes(self) -> set[str]:
        """The names of the weights that some need looks at."""
        return {name for need in self._wanted() for name in need.passes}

    def _wanted(self) -> list[Need]:
        return [need for part in self.parts() if isinstance(part, Needy) for need in part.needs]

    def heads(self) -> tuple[str, ...]:
        """The scalar heads that the parts want on the policy, each once."""
        wanted = [head for part in self.parts() if isinstance(part, Headed) for head in part.heads]
        return tuple(dict.fromkeys(wanted))

    def parts(self) -> tuple[object, ...]:
        """The parts that see a batch, in the order of the slots."""
        many = (*self.source, *self.prepare, self.advantage, *self.modulate)
        return (*many, self.objective, *self.keep, self.aggregate, *self.terms)

    def signal(self, batch: Batch) -> tuple[float, float]:
        """(rows of a credited batch that teach, live rows): an advantage, or a term that is no mere regulariser."""
        live = batch.live_rows
        taught = (batch.advantage != 0).any(dim=1)
        for term in self.terms:
            taught = taught if term.regularizes else taught | (term.weights(batch) != 0).any(dim=1)
        return float((taught & live).sum().item()), float(live.sum().item())

    def prepared(self, batch: Batch) -> Batch:
        """The batch with whatever `prepare` adds or scores anew: on the whole batch, before the split."""
        for prepare in self.prepare:
            batch = prepare(batch)
        return batch

    def credit(self, batch: Batch) -> Batch:
        """The prepared batch with `advantage` filled."""
        batch = self.prepared(batch)
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
        if self.keep:
            kept = (batch.column("weight") != 0) & batch.live
            metrics = add_metrics(metrics, {"kept": (float(kept.sum().item()), float(batch.live.sum().item()))})
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
