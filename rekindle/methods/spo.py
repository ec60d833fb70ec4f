"""SPO: one response a prompt: its baseline is what earlier visits of the prompt say, forgotten as the policy moves.

Xu & Ding, "Single-stream Policy Optimization", arXiv 2509.13232. Differs from GRPO in the baseline (a Beta tracker a
prompt, from before the sample), whitening over the batch, prompts sampled by their uncertainty, and clip-higher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.whitened import RowsWhitened
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.stream import distinct, drawn
from rekindle.tokens.tracker import counts, drift, latest, remembered

CARD = Card(
    title="SPO",
    summary="No groups: a tracker a prompt is the baseline; set rollout.group=1 and more prompts.",
    authors="Xu, Ding",
    year=2025,
    arxiv="2509.13232",
    code="verl-recipe/spo",
    parent="grpo",
    essence=("collect.prompts", "collect.shape", "advantage"),
    status="close",
    deviations=(
        "Trackers start at 0.5 (officially 8 offline samples); no N_eff; dual clip 3; set rollout.group=1 by hand.",
    ),
    version=1,
    sources={
        "collect.prompts.floor": "official code: 0.05",
        "collect.prompts.candidates": "official code: 14k candidates for 1024 prompts",
        "collect.shape.0.half": "official code: D_half 0.06",
        "collect.shape.0.bounds": "official code: 0.875, 0.96",
        "objective.high": "official code: 0.28",
    },
    effects=(Effect(claim="more is right, from as many responses", bed="spread", metric="reward"),),
)


@dataclass(frozen=True, kw_only=True)
class ByUncertainty:
    """Prompts drawn without replacement, by sqrt(v (1 - v)) + floor, from `candidates` times as many of the stream."""

    floor: float = 0.05
    candidates: int = 14

    def __call__(self, run: Any, count: int) -> Sequence[Example]:
        """`count` prompts."""
        there = distinct(run, self.candidates * count)
        value = [a / (a + b) for a, b in (counts(run, e.id) for e in there)]
        return drawn(run, there, [(v * (1 - v)) ** 0.5 + self.floor for v in value], count)


@dataclass(frozen=True, kw_only=True)
class OverTracker:
    """score - v, then alpha <- rho alpha + r and beta <- rho beta + 1 - r, rho = 2^(-D / half) in `bounds`.

    D: how far the log-probs of the prompt's previous response have moved since it was sampled; 0 on the first visit.
    """

    half: float = 0.06
    bounds: tuple[float, float] = (0.875, 0.96)

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts, run: Any) -> Verdicts:
        """Scores over the tracker as it was; writes `run.memory["spo"]`."""
        memory, score = run.memory.setdefault("spo", {}), verdicts.score.clone()
        moved = drift(run, latest(memory, [e.id for e in rollouts.example]))
        for group in rollouts.group[verdicts.graded].unique():
            rows = ((rollouts.group == group) & verdicts.graded).nonzero()[:, 0]
            prompt, right = rollouts.example[int(rows[0])].id, int(verdicts.success[rows].sum())
            alpha, beta = counts(run, prompt)
            score[rows] -= alpha / (alpha + beta)
            rho = min(max(2 ** (-moved.get(prompt, 0.0) / self.half), self.bounds[0]), self.bounds[1])
            seen = {"alpha": rho * alpha + right, "beta": rho * beta + len(rows) - right}
            memory[prompt] = seen | {"response": remembered(rollouts, int(rows[-1]))}
        return replace(verdicts, score=score)


def method() -> PolicyGradient:
    """SPO as a record of parts."""
    collect = Answers(prompts=ByUncertainty(), shape=(OverTracker(),))
    return grpo.method().replace(collect=collect, advantage=RowsWhitened(), objective=Clip(high=1.28, dual=3.0))
