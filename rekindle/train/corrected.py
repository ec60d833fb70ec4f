"""Truncated importance sampling around a method whose samples come from another copy of the weights."""

from __future__ import annotations

from typing import Any

from rekindle.core.aggregate import SamplerWeighted
from rekindle.core.evolution import Evolution
from rekindle.core.method import PolicyGradient
from rekindle.errors import InputError
from rekindle.train.footprint import adapter_rank
from rekindle.train.settings import Gives, RunConfig, parts


def corrected(config: RunConfig, record: Any) -> tuple[Any, list[str]]:
    """The record with truncated importance sampling where the sampler has weights of its own, and a note that says so.

    `vllm.correct=false` leaves the record as it is, as does an aggregate that corrects already. The ratio is pi_old /
    pi_sampled: the training code's own score at the weights that are about to be updated, over the sampler's number
    under the weights that it had (decoupled PPO, arXiv 2110.00641, where those are older).
    """
    if same_numbers(config) or not config.vllm.correct or isinstance(record, Evolution):
        return record, _stale(config)
    for part in parts(record):
        if isinstance(part, Gives) and set(part.gives) & set(SamplerWeighted.refuses):
            raise InputError(
                f"{type(part).__name__} brings {SamplerWeighted.refuses[0]}, which have no log-prob to correct by: "
                "set vllm.correct=false, or --sampler local"
            )
    return record.each(_weighted), _note(config, record.methods) + _stale(config)


def same_numbers(config: RunConfig) -> bool:
    """Whether samples come from the very numbers that are trained: nothing to compare and nothing to correct.

    True of the local sampler, and of a fleet of them that draws within the step. An adapter is merged on its way to a
    fleet, which rounds.
    """
    if config.rollout.sampler == "ray":
        adapter = config.lora.rank or adapter_rank(config.model)
        return config.ray.engine == "local" and config.ray.staleness == 0 and not adapter
    return config.rollout.sampler == "local"


def _weighted(method: PolicyGradient) -> PolicyGradient:
    if isinstance(method.aggregate, SamplerWeighted):
        return method
    return method.replace(aggregate=SamplerWeighted(inner=method.aggregate, level="token", cap=2.0))


def _note(config: RunConfig, methods: tuple[PolicyGradient, ...]) -> list[str]:
    inner = [type(m.aggregate).__name__ for m in methods if not isinstance(m.aggregate, SamplerWeighted)]
    if not inner:
        return []
    return [
        f"rollout.sampler={config.rollout.sampler} puts truncated importance sampling around the aggregate "
        f"({inner[0]}): tokens weigh "
        "min(pi_old / pi_sampled, 2); vllm.correct=false leaves it out"
    ]


def _stale(config: RunConfig) -> list[str]:
    count = config.ray.staleness
    if config.rollout.sampler != "ray" or not count:
        return []
    return [
        f"responses are drawn up to {count} steps ahead (ray.staleness={count}); what is under way at a checkpoint is "
        "drawn again on --resume, by the checkpoint's weights, so a resumed run is not the same bit for bit"
    ]


def cap_of(aggregate: Any) -> float:
    """The ratio from which the record cuts, 2 where it does not correct: for the log."""
    return aggregate.cap if isinstance(aggregate, SamplerWeighted) else 2.0
