"""What TRL's trainer holds of a generation, as our `Batch`: prompts padded at the left, completions at the right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rekindle.core.types import Batch, Now
from rekindle.tokens.rollouts import PromptRows

COLUMNS = {
    "old_per_token_logps": "logp_old",
    "ref_per_token_logps": "logp_ref",
    "sampling_per_token_logps": "logp_sampled",
}
"""TRL's name of a column -> ours. TRL gives each only where its settings ask for it."""


def live_mask(inputs: Mapping[str, Any]) -> Bool[Tensor, "B T"]:
    """Tokens that the policy chose: of the completion, and of no tool."""
    mask = inputs["completion_mask"].bool()
    return mask if inputs.get("tool_mask") is None else mask & inputs["tool_mask"].bool()


def prompt_rows(inputs: Mapping[str, Any]) -> PromptRows:
    """The prompts' tokens without their padding."""
    ids, mask = inputs["prompt_ids"].tolist(), inputs["prompt_mask"].tolist()
    return PromptRows(tuple(tuple(i for i, m in zip(a, b, strict=True) if m) for a, b in zip(ids, mask, strict=True)))


def scored(rewards: Float[Tensor, "B F"], weights: Float[Tensor, " F"]) -> tuple[Tensor, Tensor]:
    """(score [B], graded [B]) as TRL adds the functions' rewards up; a row that none of them judged is not graded."""
    graded = ~rewards.isnan().all(dim=1)
    return (rewards.double() * weights.double()).nansum(dim=1), graded


def sampled_of(inputs: Mapping[str, Any], known: Tensor | None) -> Tensor | None:
    """The log-probs that the tokens were sampled at [B T], `known` (the old policy's) where the sampler told none.

    vLLM gives NaN there, and TRL takes a ratio of 1 for them. None where TRL has no such column, or where some are NaN
    and nothing is known in their place: a part that reads the column is then refused.
    """
    sampled = inputs.get("sampling_per_token_logps")
    if sampled is None or not sampled.isnan().any():
        return sampled
    return None if known is None else sampled.where(~sampled.isnan(), known.to(sampled))


def as_batch(
    inputs: Mapping[str, Any],
    rewards: tuple[Float[Tensor, " B"], Bool[Tensor, " B"]],
    *,
    group: Int[Tensor, " B"],
    first_uid: int,
    key: Int[Tensor, ""],
    limit: int,
    success_above: float,
) -> Batch:
    """The generation on the CPU. rewards: (score, graded). limit: the longest completion, in tokens.

    first_uid: the rows are numbered from there. A success is a graded row whose reward is above `success_above`.
    Sampling log-probs: see `sampled_of`.
    """
    score, graded = (values.cpu() for values in rewards)
    mask = live_mask(inputs).cpu()
    rows = len(mask)
    found = {ours: inputs.get(theirs) for theirs, ours in COLUMNS.items()}
    found["logp_sampled"] = sampled_of(inputs, found["logp_old"])
    columns: dict[str, Any] = {
        name: values.cpu().where(mask, 0.0) for name, values in found.items() if values is not None
    }
    return Batch(
        action=inputs["completion_ids"].cpu().where(mask, 0),
        mask=mask,
        uid=torch.arange(first_uid, first_uid + rows),
        group=group,
        success=(score > success_above) & graded,
        graded=graded,
        score=score,
        prompt=prompt_rows(inputs),
        key=key,
        extra={**columns, "limit": torch.full((rows,), limit)},
    )


def as_now(logp: Tensor, entropy: Tensor, mask: Bool[Tensor, "B T"]) -> Now:
    """What TRL's forward pass says, on the CPU and 0 off the mask."""
    return Now(logp=logp.cpu().where(mask, 0.0), entropy=entropy.cpu().where(mask, 0.0))
