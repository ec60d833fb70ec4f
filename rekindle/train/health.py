"""Cheap label-free numbers of a step's responses that a collapse shows in: repetition, and how many answers there are.

Both are of fixed-length prefixes or of shares, so that a change of length alone does not move them.
"""

from __future__ import annotations

from collections import Counter

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rekindle.core.types import Metrics
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rollouts import Rollouts

GRAM = 4
"""Tokens of an n-gram: those of BLEU-4 (aclanthology.org/P02-1040); shorter ones repeat in any text."""
PREFIX = 256
"""Tokens of a response that are looked at: the share of repeated n-grams rises with length."""
_ODD = (1, 0x9E3779B97F4A7C15 - (1 << 64), 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
"""Odd factors (of splitmix64): sums of products modulo 2^64; two different n-grams meet once in about 1e19."""


def health_metrics(rollouts: Rollouts, verdicts: Verdicts) -> Metrics:
    """repetition; answers/distinct and answers/majority: distinct answers, and the commonest's rows, a row of a group.

    A share a group, so that groups of one size can be compared over the steps of a run. Truth is never looked at.
    """
    metrics: Metrics = {"repetition": repetition(rollouts.ids, rollouts.mask)}
    distinct = commonest = 0
    groups: dict[int, list[str | None]] = {}
    for group, answer in zip(rollouts.group.tolist(), verdicts.answer, strict=True):
        groups.setdefault(group, []).append(answer)
    for answers in groups.values():
        count = Counter(answer for answer in answers if answer)
        distinct += len(count)
        commonest += max(count.values(), default=0)
    rows = len(verdicts.answer)
    return {**metrics, "answers/distinct": (distinct, rows), "answers/majority": (commonest, rows)}


def repetition(ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> tuple[float, float]:
    """(repeated n-grams, n-grams): those of a response's first PREFIX tokens that stood in it before, over all rows.

    1 - distinct/total as in distinct-n (arXiv 1510.03055), within a response. Nothing for responses of less than GRAM.
    """
    ids, mask = ids[:, :PREFIX], mask[:, :PREFIX]
    if ids.shape[1] < GRAM:
        return 0.0, 0.0
    whole = mask.unfold(1, GRAM, 1).all(dim=2)
    coded = (ids.long().unfold(1, GRAM, 1) * torch.tensor(_ODD, device=ids.device)).sum(dim=2)
    order = torch.arange(coded.shape[1], device=ids.device).expand_as(coded)
    seen = torch.where(whole, coded, -1 - order)  # what is no n-gram is unlike all of its row
    ordered = seen.sort(dim=1).values
    return float((ordered[:, 1:] == ordered[:, :-1]).sum()), float(whole.sum())
