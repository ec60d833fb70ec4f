"""Runs that search instead of descending: what they refuse, what they leave unused, and what their start says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rekindle.core.evolution import Evolution
from rekindle.errors import InputError
from rekindle.tokens.factors import SingularValues, count_of
from rekindle.tokens.trials import Responses
from rekindle.train.footprint import adapter_rank
from rekindle.train.opened import trains_adapter
from rekindle.train.sections import Rollout
from rekindle.train.settings import RunConfig, samples_per_prompt, written_draws


def check_search(config: RunConfig, record: Any) -> None:
    """InputError for what a search cannot work with; nothing for a method that descends."""
    if not isinstance(record, Evolution):
        return
    method = config.method
    if not trains_adapter(config):
        raise InputError(f"'{method}' searches an adapter and there is none: add --lora RANK")
    if isinstance(record.space, SingularValues):
        count_of(record.space.share, config.lora.rank or adapter_rank(config.model))
    if isinstance(record.collect, Responses) and record.collect.label.votes:
        raise InputError(f"'{method}' has one response a prompt, and a vote needs several: set collect.label=Verified")
    if config.rollout.sampler == "ray":
        raise InputError(
            f"'{method}' samples by other weights for each candidate, and a fleet is for many responses of the same: "
            "set --sampler local or vllm; --ranks N shares the candidates"
        )
    if config.rollout.sampler == "vllm" and config.vllm.url is not None and config.ranks > 1:
        raise InputError(
            f"ranks={config.ranks} each have a candidate, and a vLLM server has the weights of one: set ranks=1, or "
            "drop vllm.url"
        )


def unused(record: Any, origin: Mapping[str, str]) -> list[str]:
    """A note for each option that the user has set and that a search, or a method on written rows, does not read."""
    if written_draws(record):
        given = [name for name in ("rollout.group", "rollout.votes") if origin[name] in ("flag", "--set")]
        return [f"{name} is not used: the data says which responses a prompt has" for name in given]
    if not isinstance(record, Evolution):
        return []
    given = [name for name in ("rollout.group", "rollout.votes", "checkpointing") if origin[name] in ("flag", "--set")]
    return [f"{name} is not used: a candidate gives one response a prompt, and there is no update" for name in given]


def without_descent(profile: Mapping[str, Any], record: Any) -> dict[str, Any]:
    """A task's profile without what it says of updates, where the record has none."""
    descends = not isinstance(record, Evolution)
    return {path: value for path, value in profile.items() if descends or not path.startswith("descent.")}


def drawn_and_trained(record: Any, rollout: Rollout) -> tuple[int, int]:
    """Responses that a step draws, and those that it trains on: none where it searches or the data brings them."""
    if isinstance(record, Evolution):
        return rollout.prompts * record.search.population, 0
    if written_draws(record):
        return 0, 0
    return rollout.prompts * samples_per_prompt(record, rollout), rollout.prompts * rollout.group


def told(record: Any, run: Any) -> tuple[str, ...]:
    """What a search says before its first step."""
    return record.space.told(run) if isinstance(record, Evolution) else ()


def flat(steps: int) -> str:
    """The sentence for a search that has nothing to follow."""
    return (
        f"all candidates were worth the same in each of the last {steps} steps: start from an adapter that is trained "
        "(--model FOLDER), give partial credit (--reward FILE.py:function), raise search.sigma, use harder or easier "
        "data, or set empty_steps=0 to go on"
    )
