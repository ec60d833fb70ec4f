"""MA-RLHF: credit goes to macro actions, runs of a few tokens, so that the end of a response is fewer steps away.

Chai et al., "MA-RLHF: Reinforcement Learning from Human Feedback with Macro Actions", arXiv 2410.02743. Differs from
PPO in the advantage: estimated over macro actions, shared by the tokens of one; sampling and ratios stay by token. Also
a KL to the reference in the reward, a clipped score, no whitening, no dual clip.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rekindle.core.macro import FixedMacros
from rekindle.core.macro_gae import MacroReturns, OverMacroValue
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.returns import ClippedScore, KLInReward
from rekindle.methods import ppo_clip
from rekindle.methods.ppo_clip import ValueLoss
from rekindle.tokens.collect import Answers
from rekindle.tokens.trees import ParsedMacros, Tree, phrases

ON_FIRST = partial(Effect, bed="first", metric="accuracy")
WHITE, BLIND, START = {"advantage.whiten": True}, {"sees": False}, {"prepare.3.sigma": "start"}
ONE, SIXTEEN = {"prepare.2.n": 1}, {"prepare.2.n": 16}

CARD = Card(
    title="MA-RLHF",
    summary="PPO whose advantages are estimated over macro actions of a few tokens; the tokens of one share it.",
    authors="Chai, Sun, Fang, Wang, Sun, Wu",
    year=2024,
    arxiv="2410.02743",
    code="ernie-research/MA-RLHF",
    parent="ppo_clip",
    essence=("prepare", "advantage", "terms"),
    status="close",
    deviations=(
        "Rows are cut one by one and no macro action is empty; official code cuts all by the first, with empty ones.",
        "Rewards are summed (paper); official code averages them, the last token apart: prepare.3.reward=mean.",
        "No grammar comes along: `parsed()` halves clauses and keeps brackets whole; `parser` takes another parser.",
        "`parsed()` counts leaves, and compares tokens with those of the response, not just their number.",
        "A mean of values knows the tokens it judges (paper, default); prepare.3.sigma=start is ours and does not.",
        "The value is a linear head on the policy's own states with PPO's lr; official code has a second model.",
    ),
    version=1,
    sources={
        "prepare.0.limit": "official code: rewards clipped to +-2.5",
        "prepare.1.coef": "official README: 0.05",
        "prepare.2.n": "official scripts: 5 (10 for code)",
        "prepare.3.gamma": "official script: 1.0",
        "prepare.3.lam": "official script: 0.95",
        "terms.0.clip": "official code: cliprange_value 0.2",
    },
    effects=(
        ON_FIRST(
            claim="a value that sees what was right: more is right after 100 steps than by PPO, both whitened",
            options=WHITE,
            bed_options={"steps": 100},
        ),
        ON_FIRST(claim="a blind value: more is right than by PPO, both whitened", options=WHITE, bed_options=BLIND),
        ON_FIRST(claim="a value that sees: 5 tokens do better than 1", against="ma_rlhf", against_options=ONE),
        ON_FIRST(
            claim="a blind value: 5 tokens do better than 1", against="ma_rlhf", against_options=ONE, bed_options=BLIND
        ),
        ON_FIRST(claim="a value that sees: 16 do better than 5", against="ma_rlhf", options=SIXTEEN),
        ON_FIRST(claim="a blind value: 16 do better than 5", against="ma_rlhf", options=SIXTEEN, bed_options=BLIND),
        ON_FIRST(claim="a value that sees: first values do better than means", against="ma_rlhf", options=START),
    ),
)


def method() -> PolicyGradient:
    """MA-RLHF with macro actions of five tokens as a record of parts."""
    return ppo_clip.method().replace(
        prepare=(ClippedScore(limit=2.5), KLInReward(coef=0.05), FixedMacros(n=5), MacroReturns()),
        advantage=OverMacroValue(),
        objective=Clip(low=0.8, high=1.2),
        terms=(ValueLoss(clip=0.2),),
    )


def parsed(parser: Callable[[str], Tree] = phrases) -> PolicyGradient:
    """MA-RLHF with macro actions by phrases of the text."""
    host, columns = method(), (ParsedMacros(parser=parser),)
    prepare = tuple(part for part in host.prepare if not isinstance(part, FixedMacros))
    return host.replace(collect=Answers(columns=columns), prepare=prepare)
