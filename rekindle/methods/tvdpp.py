"""TVD++: a small draft model learns to be accepted by a target model. Goel et al., arXiv 2403.00858; SFT's rows.

The rows are answers of the target. Where SFT learns the words, this learns the target's whole distribution at each of
them (the target is `--teacher`), by the distance that speculative decoding pays for: 1 - TVD is the share of accepted
tokens. TVD's gradient is a policy gradient; TVD++ standardises its reward. `rekindle draft` does all of it.
"""

from __future__ import annotations

from dataclasses import replace

from rekindle.core.draft_losses import DraftLoss
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.methods import sft

SAMPLED = {"objective.estimator": "sampled"}
TUNED = {"start": "tuned"}

CARD = Card(
    title="TVD++",
    summary="Aligns a draft model with its target by the share of tokens that speculative decoding accepts.",
    authors="Goel, Gagrani, Jeon, Park, Lee, Lott",
    year=2024,
    arxiv="2403.00858",
    code=None,
    parent="sft",
    essence=("objective",),
    status="close",
    deviations=(
        "The scope of the reward's mean and deviation is inferred: the minibatch, weighted by p.",
        "The whole vocabulary stands for samples of p: the mean has no effect then, TVD++ is TVD over the deviation.",
        "The distributions are those at rollout.temperature, not truncated.",
    ),
    version=1,
    sources={"descent.lr": "this package: 1e-4, for models that are trained already; the paper's is not known"},
    effects=(
        Effect(
            claim="from a weak start, KLD is accepted more than TVD++",
            bed="markov",
            metric="acceptance",
            options={"objective.kind": "kld"},
            against="tvdpp",
        ),
        Effect(
            claim="from a weak start that could equal the target, KLD is accepted more than TVD++",
            bed="markov",
            metric="acceptance",
            options={"objective.kind": "kld"},
            against="tvdpp",
            bed_options={"sees": 2},
        ),
        Effect(
            claim="exactly taken, TVD++ is accepted about as much as TVD",
            bed="markov",
            metric="acceptance",
            against="tvdpp",
            against_options={"objective.kind": "tvd"},
            within=0.01,
        ),
        Effect(
            claim="sampled, TVD++ is accepted more than TVD",
            bed="markov",
            metric="acceptance",
            options=SAMPLED,
            against="tvdpp",
            against_options={**SAMPLED, "objective.kind": "tvd"},
        ),
        Effect(
            claim="from a draft tuned by KLD, TVD++ is accepted more than the draft it started from",
            bed="markov",
            metric="acceptance",
            against="",
            bed_options=TUNED,
        ),
        Effect(
            claim="from a draft tuned by KLD, TVD++ is accepted more than more of KLD",
            bed="markov",
            metric="acceptance",
            against="tvdpp",
            against_options={"objective.kind": "kld"},
            bed_options=TUNED,
        ),
    ),
)


def method() -> PolicyGradient:
    """TVD++ as a record of parts."""
    host = sft.method()
    return host.replace(objective=DraftLoss(), descent=replace(host.descent, lr=1e-4))
