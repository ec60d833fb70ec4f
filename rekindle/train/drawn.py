"""How a step draws, which of its rows were drawn, and how often each prompt was solved."""

from __future__ import annotations

import torch
from torch import Tensor

from rekindle.tokens.demonstrations import FINISH as DEMONSTRATION
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.sampling.base import Sampling
from rekindle.train.config import Resolved


def sampling_of(resolved: Resolved) -> Sampling:
    """The sampler's settings of a run."""
    r = resolved.config.rollout
    return Sampling(
        temperature=r.temperature,
        top_p=r.top_p,
        top_k=r.top_k,
        max_tokens=r.max_tokens,
        stop=r.stop,
        block=r.block,
        admit=r.admit,
    )


def drawn(rollouts: Rollouts) -> Tensor:
    """True for the rows that the sampler drew, False for demonstrations put among them."""
    return torch.tensor([finish != DEMONSTRATION for finish in rollouts.finish], dtype=torch.bool)


def visits(rollouts: Rollouts, verdicts: Verdicts) -> list[tuple[str, float]]:
    """(prompt id, share of successes among its graded responses) of every group that has one."""
    found: dict[int, tuple[str, list[bool]]] = {}
    rows = zip(
        rollouts.group.tolist(), rollouts.example, verdicts.success.tolist(), verdicts.graded.tolist(), strict=True
    )
    for group, example, success, graded in rows:
        if graded:
            found.setdefault(group, (example.id, []))[1].append(success)
    return [(prompt, sum(seen) / len(seen)) for prompt, seen in found.values()]
