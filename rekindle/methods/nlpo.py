"""NLPO: PPO whose tokens are drawn from the nucleus of a slowly moving copy of the policy, an action mask of the state.

Ramamurthy, Ammanabrolu et al., "Is Reinforcement Learning (Not) for Natural Language Processing", arXiv 2210.01241.
Differs from PPO in the mask (of samples and of the ratio) and by a KL of unmasked log-probs in the rewards.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from rekindle.core.allowed import MASK, Allowed, WithinMask
from rekindle.core.gae import Returns
from rekindle.core.kl_control import FollowKL, KLCoefficient, Refresh
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.returns import KLByCoefficient
from rekindle.methods import ppo_clip
from rekindle.tokens.collect import Answers
from rekindle.tokens.sampling.masked import DrawWithinMask, SpecialTokens

CONCEPTS = {"reward": "concepts"}
TOY = {"objective.allowed.min_keep": 1, "source.0.start": 0.02, "after.0.target": 2.0}
AMONG_ITSELF = partial(Effect, bed="numbers", against="nlpo", options=TOY)
CARD = Card(
    title="NLPO",
    summary="PPO within an action mask: the nucleus of a copy of the policy, refreshed every few steps.",
    authors="Ramamurthy, Ammanabrolu, Brantley, Hessel, Sifa, Bauckhage, Hajishirzi, Choi",
    year=2022,
    arxiv="2210.01241",
    code="allenai/RL4LMs",
    parent="ppo_clip",
    essence=("collect.draw", "objective", "after"),
    status="close",
    deviations=(
        "The copy is refreshed after the update and reaches the sampler; officially rollouts keep the first copy.",
        "Log-probs within the mask are renormalised; renormalize=false has the official ones.",
        "The mask is that of the sampling temperature; the action itself is always in it.",
        "Advantages are whitened over the batch, the value loss is clipped, four minibatches (all the parent's).",
        "`rekindle eval` of the trained model draws without a mask; a run's own evaluations have it.",
    ),
    version=1,
    sources={
        "source.0.start": "RL4LMs, IMDB: 0.1",
        "prepare.1.gamma": "RL4LMs: 0.99",
        "prepare.1.lam": "RL4LMs: 0.95",
        "objective.allowed.p": "RL4LMs, top_mask 0.9",
        "objective.allowed.k": "unused with learned_top_p; transformers' default",
        "objective.allowed.min_keep": "RL4LMs, min_tokens_to_keep 100",
        "objective.inner.low": "RL4LMs, clip_range 0.2",
        "objective.inner.high": "RL4LMs, clip_range 0.2",
        "objective.entropy": "RL4LMs, ent_coef 0",
        "after.0.target": "RL4LMs, IMDB: 0.1",
        "after.0.rate": "RL4LMs, KLController",
        "after.0.bound": "RL4LMs, KLController",
        "after.1.every": "RL4LMs, IMDB: target_update_iterations 5",
        "descent.epochs": "RL4LMs, n_epochs 5",
        "descent.grad_clip": "RL4LMs, max_grad_norm 0.5",
    },
    effects=(
        Effect(claim="draws fewer distractors", bed="numbers", metric="distractors", more=False, options=TOY),
        AMONG_ITSELF(
            claim="its policy moves less far from the start than without a mask",
            metric="kl",
            more=False,
            against_options={**TOY, "objective.allowed.p": 1.0},
        ),
        AMONG_ITSELF(
            claim="a mask that is never refreshed holds it back",
            metric="reward",
            against_options={**TOY, "after.1.every": 0},
        ),
        Effect(claim="texts are more favourable than PPO's", bed="words", metric="reward", options=TOY),
        Effect(claim="texts hold more concepts", bed="words", metric="reward", options=TOY, bed_options=CONCEPTS),
    ),
)


def method() -> PolicyGradient:
    """NLPO as a record of parts."""
    host = ppo_clip.method()
    return host.replace(
        collect=Answers(draw=DrawWithinMask(), columns=(SpecialTokens(),)),
        source=(KLCoefficient(start=0.1),),
        prepare=(KLByCoefficient(), Returns(gamma=0.99, lam=0.95, by_token=True)),
        objective=WithinMask(allowed=Allowed(p=0.9, min_keep=100), inner=Clip(low=0.8, high=1.2)),
        after=(FollowKL(target=0.1), Refresh(name=MASK, every=5)),
        descent=replace(host.descent, epochs=5, grad_clip=0.5),
    )
