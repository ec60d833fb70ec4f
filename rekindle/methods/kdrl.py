"""KDRL: a teacher's judgement of the policy's own tokens, beside the verifier's of its answers.

Xu et al., "KDRL: Post-Training Reasoning LLMs via Unified Knowledge Distillation and Reinforcement Learning", arXiv
2506.02208. Differs from GRPO by a reverse KL to a frozen teacher on the sampled tokens. Groups that are all wrong,
which teach GRPO nothing, are pulled to the teacher all the same.
"""

from __future__ import annotations

from rekindle.core.distill import Distil, Pull, TowardsTeacher
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.columns import AtStep, ForeignEnds
from rekindle.tokens.labels import Verified

JOINT = {"prepare.0.beta": 0.1}
ANNEALED = {"prepare.0.beta": 0.2, "prepare.0.decrease": 0.002, "prepare.0.least": 0.002}
SWITCHED = {"prepare.0.switch": 60}
ALONE = {"prepare.0.switch": 200}

CARD = Card(
    title="KDRL",
    summary="GRPO plus a reverse KL to a teacher on the policy's own tokens: constant, fading or switched off.",
    authors="Xu, Zhu, Deng, Li, Hou, Wang, Shang, R. Xu, Mi",
    year=2025,
    arxiv="2506.02208",
    code=None,
    parent="grpo",
    essence=("collect.columns", "prepare", "modulate", "terms"),
    status="close",
    deviations=(
        "Written without the paper's full text: the mean over all tokens as denominator is inferred.",
        "The advantage's form and the switch are those of later comparisons; the cap on the log-ratio is ours.",
        "The teacher is scored at rollout.temperature, as the policy is; its tokens must be the model's.",
    ),
    version=1,
    sources={
        "prepare.0.beta": "second-hand: the paper's best constant 2e-3 (a fading one: 5e-3, 5e-5 a step, 1e-3)",
        "prepare.0.decrease": "constant weight",
        "prepare.0.least": "constant weight",
        "terms.0.top": "ours: acts with estimator=topk only",
    },
    effects=(
        Effect(
            claim="the teacher is followed at once: more is solved in the first 30 steps",
            bed="taught",
            metric="accuracy",
            options=JOINT,
            bed_options={"steps": 30},
        ),
        Effect(claim="with a teacher, more is solved than by GRPO", bed="taught", metric="accuracy", options=JOINT),
        Effect(claim="with a teacher, more right answers are found", bed="taught", metric="distinct", options=JOINT),
        Effect(
            claim="a pull that fades ends above the teacher alone",
            bed="taught",
            metric="accuracy",
            options=ANNEALED,
            against="kdrl",
            against_options=ALONE,
        ),
        Effect(
            claim="a hard switch ends above a pull that fades",
            bed="taught",
            metric="accuracy",
            options=SWITCHED,
            against="kdrl",
            against_options=ANNEALED,
        ),
        Effect(
            claim="the verifier costs right answers that the teacher alone would keep",
            bed="taught",
            metric="distinct",
            more=False,
            options=JOINT,
            against="kdrl",
            against_options=ALONE,
        ),
    ),
)


def method() -> PolicyGradient:
    """KDRL as a record of parts."""
    return grpo.method().replace(
        collect=Answers(label=Verified(), columns=(AtStep(), ForeignEnds())),
        prepare=(Pull(),),
        modulate=(TowardsTeacher(),),
        terms=(Distil(),),
    )
