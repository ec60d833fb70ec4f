"""ReMix: recent rollouts come again inside a clip around the current policy; then the policy turns purely on-policy.

Liang et al., "Squeeze the Soaked Sponge", arXiv 2507.06892. Differs from GRPO by two stages: first a share of each
batch is replayed and the batch is used twice; then the policy becomes its own KL reference and replay ends. The KL
leans ever less on that reference and more on the policy of the previous step.
"""

from __future__ import annotations

from dataclasses import replace

from rekindle.core.method import Card, Effect
from rekindle.core.mixed import Anneal, Follow, KLConvex, MixedClip
from rekindle.core.stages import Stages
from rekindle.core.terms import EntropyBonus
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.replay import Reincarnate, Replay, RoomForReplay

BED = {"steps": 90, "budget": 6400}  # 50 steps of fresh responses
OURS = {"until": (0.2, 1.0), "methods.0.descent.epochs": 2}
CARD = Card(
    title="ReMix",
    summary="Replays recent rollouts around the current policy, uses batches twice, then turns on-policy for good.",
    authors="Liang, Tang, Ma, Liu, Zheng, Hu, Bai, Hao",
    year=2025,
    arxiv="2507.06892",
    code=None,
    parent="grpo",
    essence=("collect.prompts", "source", "objective", "terms", "descent.epochs", "until"),
    status="close",
    deviations=(
        "Inferred: which of the last steps is replayed (any, evenly), whole groups, mean over tokens, k3 as the KL.",
        "No code is published: clip width, KL coefficient and learning rate are verl's, the entropy coefficient ours.",
        "The paper's switch is a number of steps (50 or 100 of 200); here it is a share of the run, one half.",
        "lam counts steps as in the paper: in a run of fewer than 51 it stays 1.",
        "The dual clip of 3 is the parent's; the paper has none.",
        "Replayed tokens count in the KL like fresh ones.",
    ),
    version=1,
    sources={
        "until": "inferred from the paper's count of rollouts: 100 of 200 steps with GRPO",
        "collect.prompts.share": "paper: 0.4",
        "methods.0.source.0.window": "paper: the last two steps",
        "source.1.start": "paper: lam(t) = max(1 - 0.1 ceil(max(t - 50, 0) / 10), 0.5), not begun again at the border",
        "source.1.every": "paper: 10",
        "source.1.drop": "paper: 0.1",
        "source.1.floor": "paper: 0.5",
        "objective.width": "inferred: verl's clip ratio 0.2",
        "methods.0.descent.epochs": "paper: update-to-data ratio 2",
        "terms.0.coef": "inferred: 0.001, verl's kl_loss_coef",
        "terms.1.coef": "not stated: 0.001, launch script of EchoRL (arXiv 2605.31228)",
    },
    effects=(
        Effect(
            claim="For the same number of generated responses it is more often right than GRPO.",
            bed="digits",
            metric="accuracy",
            options=OURS,
            bed_options=BED,
        ),
        Effect(
            claim="Without the switch to on-policy training it ends lower, at the same number of responses.",
            bed="digits",
            metric="accuracy",
            against="remix",
            options=OURS,
            against_options={**OURS, "until": (1.0, 1.0)},
            bed_options=BED,
        ),
    ),
)


def method() -> Stages:
    """ReMix on GRPO as two stages."""
    parent, follow = grpo.method(), (Anneal(), Follow())
    parent = parent.replace(terms=(KLConvex(coef=0.001), EntropyBonus(coef=0.001)))
    mixed = parent.replace(
        collect=Answers(prompts=RoomForReplay(share=0.4)),
        source=(Replay(window=2), *follow),
        objective=MixedClip(width=0.2, dual=3.0),
        descent=replace(parent.descent, epochs=2),
    )
    fresh = parent.replace(source=(Reincarnate(), *follow))
    return Stages(methods=(mixed, fresh), until=(0.5, 1.0))
