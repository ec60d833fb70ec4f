"""Truncated importance sampling around a method whose samples come from another copy of the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rekindle.core.aggregate import SamplerWeighted
from rekindle.core.method import PolicyGradient
from rekindle.core.stages import Stages
from rekindle.errors import InputError
from rekindle.train.settings import Gives, RunConfig, parts


def corrected(config: RunConfig, record: Any) -> tuple[Any, list[str]]:
    """The record with truncated importance sampling where the sampler has weights of its own, and a note that says so.

    `vllm.correct=false` leaves the record as it is, as does an aggregate that corrects already.
    """
    if config.rollout.sampler == "local" or not config.vllm.correct:
        return record, []
    for part in parts(record):
        if isinstance(part, Gives) and set(part.gives) & set(SamplerWeighted.refuses):
            raise InputError(
                f"{type(part).__name__} brings {SamplerWeighted.refuses[0]}, which have no log-prob to correct by: "
                "set vllm.correct=false, or --sampler local"
            )
    if isinstance(record, Stages):
        return replace(record, methods=tuple(_weighted(method) for method in record.methods)), _note(record.methods)
    return _weighted(record), _note((record,))


def _weighted(method: PolicyGradient) -> PolicyGradient:
    if isinstance(method.aggregate, SamplerWeighted):
        return method
    return method.replace(aggregate=SamplerWeighted(inner=method.aggregate, level="token", cap=2.0))


def _note(methods: tuple[PolicyGradient, ...]) -> list[str]:
    inner = [type(m.aggregate).__name__ for m in methods if not isinstance(m.aggregate, SamplerWeighted)]
    if not inner:
        return []
    return [
        f"rollout.sampler=vllm puts truncated importance sampling around the aggregate ({inner[0]}): tokens weigh "
        "min(pi_old / pi_sampled, 2); vllm.correct=false leaves it out"
    ]


def cap_of(aggregate: Any) -> float:
    """The ratio from which the record cuts, 2 where it does not correct: for the log."""
    return aggregate.cap if isinstance(aggregate, SamplerWeighted) else 2.0
