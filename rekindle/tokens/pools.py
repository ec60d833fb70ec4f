"""Pools of samples of a prompt, drawn in rounds: joined into one group, a baseline for it, and cut to half right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from rekindle.core.groups import group_constant, group_mean
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rollouts import Rollouts


def groups_of(rollouts: Rollouts) -> list[int]:
    """Group ids in the order of their first rows, which is that of the examples that were sampled."""
    return list(dict.fromkeys(rollouts.group.tolist()))


def joined(pool: Rollouts, more: Rollouts, groups: Sequence[int]) -> Rollouts:
    """`pool` and `more` as one, the groups of `more` renamed to `groups` in order."""
    name = dict(zip(groups_of(more), groups, strict=True))
    return Rollouts.concat([pool, replace(more, group=torch.tensor([name[g] for g in more.group.tolist()]))])


def right_and_wrong(rollouts: Rollouts, verdicts: Verdicts, group: int) -> tuple[list[int], list[int]]:
    """The rows of a group that are right, and the graded ones that are wrong, each by uid."""
    rows = torch.argsort(rollouts.uid, stable=True)
    rows = rows[(rollouts.group == group)[rows] & verdicts.graded[rows]]
    right = verdicts.success[rows]
    return rows[right].tolist(), rows[~right].tolist()


@dataclass(frozen=True)
class HalfRight:
    """G samples of a prompt, half of them right where there are enough of both; the smallest uids of each kind."""

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts, size: int) -> Int[Tensor, " N"]:
        """Row indices, in row order. Ungraded rows come last."""
        keep: list[int] = []
        for group in groups_of(rollouts):
            right, wrong = right_and_wrong(rollouts, verdicts, group)
            few = min(len(wrong), size - min(len(right), size // 2))
            chosen = [*right[: size - few], *wrong[:few]]
            others = ((rollouts.group == group) & ~verdicts.graded).nonzero()[:, 0].tolist()
            keep += [*chosen, *others][:size]
        return torch.tensor(sorted(keep), dtype=torch.int64)


@dataclass(frozen=True)
class OverPool:
    """score - mean of all samples of the prompt, those not trained on included; exactly 0 where all are the same."""

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts, run: Any) -> Verdicts:
        """Scores relative to the pool."""
        of = (rollouts.group, verdicts.graded)
        over = verdicts.score - group_mean(verdicts.score, *of)
        return replace(verdicts, score=over.masked_fill(group_constant(verdicts.score, *of), 0.0))
