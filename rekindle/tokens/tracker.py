"""What a run remembers of each prompt: a Beta tracker of its success rate, and its last response with its log-probs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rekindle.core.masked import masked_mean
from rekindle.core.types import LOGP_OLD, Batch
from rekindle.tokens.rollouts import PromptRows, Rollouts


def counts(run: Any, prompt: str) -> tuple[float, float]:
    """(alpha, beta) of a prompt, from `run.memory["spo"]`; (4, 4) before its first visit: N0 = 1 / (1 - 0.875) = 8."""
    known = run.memory.setdefault("spo", {}).get(prompt)
    return (known["alpha"], known["beta"]) if known else (4.0, 4.0)


def remembered(rollouts: Rollouts, row: int) -> dict[str, Any]:
    """A response as plain JSON: prompt and response tokens, mask, and log-probs at the weights that sampled it."""
    size = int(rollouts.mask[row].nonzero().amax()) + 1 if rollouts.mask[row].any() else 0
    logp = rollouts.logp_sampled if rollouts.logp is None else rollouts.logp
    return {
        "prompt": list(rollouts.prompt.ids[row]),
        "ids": rollouts.ids[row, :size].tolist(),
        "mask": rollouts.mask[row, :size].tolist(),
        "logp": logp[row, :size].tolist(),
    }


def drift(run: Any, responses: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Prompt -> mean over its remembered response's tokens of |log-prob then - log-prob now|."""
    if not responses:
        return {}
    told = list(responses.values())
    width = max(1, *(len(one["ids"]) for one in told))

    def table(name: str, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([[*one[name], *[0] * (width - len(one[name]))] for one in told], dtype=dtype)

    count, mask = torch.arange(len(told)), table("mask", torch.bool)
    then = table("logp", torch.float64)
    batch = Batch(
        action=table("ids", torch.int64),
        mask=mask,
        uid=count,
        group=count,
        success=torch.ones(len(told), dtype=torch.bool),
        graded=torch.ones(len(told), dtype=torch.bool),
        score=torch.zeros(len(told), dtype=torch.float64),
        prompt=PromptRows(tuple(tuple(one["prompt"]) for one in told)),
        key=run.key,
        extra={"logp_sampled": then},
    )
    moved = (run.score(batch, (LOGP_OLD,)).logp_old.double() - then).abs()
    return dict(zip(responses, masked_mean(moved, mask, dim=1).tolist(), strict=True))


def latest(memory: Mapping[str, Any], prompts: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The remembered responses of those of `prompts` that have one, each once."""
    return {p: memory[p]["response"] for p in dict.fromkeys(prompts) if p in memory and memory[p]["response"]["ids"]}
