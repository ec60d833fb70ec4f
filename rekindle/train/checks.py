"""What must hold between options before a run starts."""

from __future__ import annotations

from typing import Any

from rekindle.errors import InputError
from rekindle.train import options
from rekindle.train.settings import Grouped, Rollout, parts, samples_per_prompt


def check(record: Any, rollout: Rollout) -> None:
    """Raise InputError, one sentence with its remedy, for options that contradict each other."""
    sampled = samples_per_prompt(record, rollout)
    if sampled < rollout.group:
        raise InputError(
            f"rollout.votes is {sampled}, fewer than the {rollout.group} responses that are trained on: "
            f"set rollout.votes={rollout.group} or more, or a smaller rollout.group"
        )
    if rollout.group < 2 and (part := _compares_groups(record)):
        raise InputError(
            f"rollout.group is {rollout.group}, but {part} compares a prompt's responses: set rollout.group=2 or more"
        )
    if rollout.top_p < 1:
        raise InputError("truncated sampling needs its correction, which is not there: set rollout.top_p=1")
    if rollout.top_k > 0:
        raise InputError("truncated sampling needs its correction, which is not there: set rollout.top_k=0")


def _compares_groups(record: Any) -> str | None:
    for part in parts(record):
        if isinstance(part, Grouped) and part.needs_group:
            return options.flatten({"x": part})["x"]
    return None
