"""Prioritised prompts: those solved half of the time come first, by p * (1 - p); the rest is retested at times.

Fatemi, "Prioritized Replay for RL Post-training", arXiv 2601.02648. Differs from GRPO in which prompts are rolled out;
responses are always fresh, so that the update stays on-policy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.rollouts import Example
from rekindle.tokens.stream import distinct, moving_average

BED, PLAIN = {"solved": 0.3, "unsolvable": 0.3}, {"descent.beta1": 0.0, "descent.beta2": 0.0}
WINDOW = 16  # prompts of the stream considered for each one taken
CARD = Card(
    title="Prioritised prompts",
    summary="Rolls out the prompts whose success rate promises the largest squared advantage.",
    authors="Fatemi",
    year=2026,
    arxiv="2601.02648",
    code=None,
    parent="grpo",
    essence=("collect.prompts",),
    status="partial",
    deviations=(
        "Only the weight p * (1 - p) and the side pools are the paper's; smoothing and the retest share are ours.",
        "The heap is over a window of the prompt stream, which holds all prompts of a small data set.",
    ),
    version=1,
    sources={
        "collect.prompts.ema": "ours; the paper's constant is not known to us",
        "collect.prompts.retest": "ours; the paper's period is not known to us",
        "collect.prompts.settled": "ours: what counts as solved or unsolved",
    },
    effects=(
        Effect(
            claim="where most prompts are saturated, more is right than by turns, from as many responses",
            bed="spread",
            metric="reward",
            options=PLAIN,
            against_options=PLAIN,
            bed_options={"lr": 0.2, **BED},
        ),
        Effect(claim="and more of the trained groups are mixed", bed="spread", metric="useful", bed_options=BED),
    ),
)


@dataclass(frozen=True, kw_only=True)
class HalfSolvedFirst:
    """Takes unseen prompts first, then the largest p * (1 - p), p a moving average over visits (`ema`: of the newest).

    A share `retest` of the prompts are settled ones (p within `settled` of 0 or 1), the least visited first. Ties: the
    order of the stream.
    """

    ema: float = 0.5
    retest: float = 0.1
    settled: float = 0.05

    def __post_init__(self) -> None:
        if not (0 < self.ema <= 1 and 0 <= self.retest <= 1 and 0 <= self.settled < 0.5):
            raise ValueError("priorities take ema in (0, 1], retest in [0, 1] and settled in [0, 0.5)")

    def __call__(self, run: Any, count: int) -> Sequence[Example]:
        """`count` prompts; some twice only where the data holds fewer."""
        there = distinct(run, WINDOW * count)
        visits: dict[str, list[float]] = {e.id: run.memory["history"].get(e.id, []) for e in there}
        rate = {prompt: moving_average(seen, self.ema) if seen else 0.5 for prompt, seen in visits.items()}
        unseen = [e for e in there if not visits[e.id]]
        open_ones = [e for e in there if visits[e.id] and self.settled < rate[e.id] < 1 - self.settled]
        idle = [e for e in there if visits[e.id] and not self.settled < rate[e.id] < 1 - self.settled]
        open_ones.sort(key=lambda e: -rate[e.id] * (1 - rate[e.id]))
        idle.sort(key=lambda e: len(visits[e.id]))
        due = idle[: math.ceil(self.retest * count)]
        chosen = [*due, *unseen, *open_ones, *idle[len(due) :]]
        return [chosen[i % len(chosen)] for i in range(count)]


def method() -> PolicyGradient:
    """GRPO on prioritised prompts as a record of parts."""
    return grpo.method().replace(collect=Answers(prompts=HalfSolvedFirst()))
