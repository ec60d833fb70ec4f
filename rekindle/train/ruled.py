"""Sampling under a rule: which sampler can, and what a run that needs it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from rekindle.errors import InputError
from rekindle.tokens.lora import Weights
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.base import Sampler, Samples, Sampling
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.tokens.sampling.rules import StepRule
from rekindle.tokens.sampling.stepwise import Ruled
from rekindle.train.settings import RunConfig, parts
from rekindle.train.snapshots import own_passes


@runtime_checkable
class DrawsByRule(Protocol):
    """A draw whose tokens come from a rule."""

    def rule(self, run: Any) -> StepRule:
        """The rule, as this run's record and tokenizer have it."""
        ...


@dataclass(frozen=True, eq=False)
class UnderRule:
    """The local sampler under a rule."""

    inner: LocalSampler
    by: Ruled

    def sample(
        self, examples: Sequence[Example], n: int, settings: Sampling, key: Int[Tensor, ""], first_group: int
    ) -> Rollouts:
        """`n` responses to each example; see `Samples`."""
        return self.inner.stepwise(examples, n, settings, key, first_group, self.by)


def under(rule: StepRule | None, sampler: Sampler, references: Mapping[str, Weights]) -> Samples:
    """`sampler`, under the rule where there is one. InputError where it cannot, or where the rule lacks weights."""
    if rule is None:
        return sampler
    if not isinstance(sampler, LocalSampler):
        raise InputError(f"{type(sampler).__name__} cannot draw under {type(rule).__name__}: {ONLY_LOCAL}")
    missing = [name for name in rule.passes if name not in references]
    if missing:
        raise InputError(
            f"{type(rule).__name__} reads weights '{missing[0]}', which no part of the record scores by: add one"
        )
    return UnderRule(sampler, Ruled(rule, {name: references[name] for name in rule.passes}))


ONLY_LOCAL = (
    "each of its tokens is drawn from what the training model, in this process, says of the step before: set "
    "rollout.sampler=local and ranks=1"
)


def check_ruled(config: RunConfig, record: Any) -> None:
    """InputError where the method draws by a rule and the run's sampler cannot, or several ranks share it."""
    for part in parts(record):
        if isinstance(part, DrawsByRule) and (config.rollout.sampler != "local" or config.ranks > 1):
            there = f"rollout.sampler={config.rollout.sampler} and ranks={config.ranks}"
            raise InputError(f"method '{config.method}' draws under a rule, which {there} cannot: {ONLY_LOCAL}")


def lockstep(record: Any) -> int:
    """Models that decode side by side at the most where the method draws by a rule; 0 where it does not."""
    ruled = any(isinstance(part, DrawsByRule) for part in parts(record))
    return 1 + len(own_passes(record.passes())) if ruled else 0


def evaluated_by(run: Any) -> Samples:
    """What a run is evaluated with: its sampler, under the rule that its rollouts are drawn by, where there is one."""
    rules = [part.rule(run) for part in parts(run.record) if isinstance(part, DrawsByRule)]
    return under(rules[0] if rules else None, run.sampler, run.references)
