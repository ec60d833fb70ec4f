"""Co-rewarding-I: no labels: a question and its paraphrase are both answered, each scored by the other's majority.

Zhang et al., "Co-rewarding: Stable Self-supervised RL for Eliciting Reasoning in Large Language Models", arXiv
2508.00410. Differs from TTRL in who votes, so that an answer cannot reward itself, and in a larger KL.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.terms import KLToReference
from rekindle.methods import ttrl
from rekindle.tokens.collect import Answers
from rekindle.tokens.labels import Verdicts, agreement, majority
from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.views import Paraphrased, partners

CARD = Card(
    title="Co-rewarding-I",
    summary="Label-free: a question is scored by the majority of its paraphrase's answers, and the other way round.",
    authors="Zhang, Zhu, Ge, Zhao, Zhou, Li, Feng, Yao, Han",
    year=2025,
    arxiv="2508.00410",
    code="tmlr-group/Co-rewarding",
    parent="ttrl",
    essence=("collect.prompts", "collect.label"),
    status="partial",
    deviations=(
        "Version I only: the labels of version II, by a slowly moving copy of the policy, are left out.",
        "Paraphrases are the data's: column 'paraphrase' (`reduce`: terms change places; `digit_sum`: other tens).",
        "An odd number of prompts trains the last question without its paraphrase, which still votes.",
    ),
    version=1,
    sources={
        "terms.0.coef": "official code: KL loss 0.005",
        "descent.lr": "official code: 3e-6",
    },
    effects=(
        Effect(
            claim="Another question's majority is enough of a label: more right answers than the untrained start.",
            bed="digit_sum",
            metric="pass@1",
            against="",
        ),
    ),
)


@dataclass(frozen=True)
class CrossVote:
    """Success is agreement with the most frequent answer to the other view of the question; none: every row fails.

    Ties go to the smallest string; unparsed answers never vote.
    """

    needs_truth: ClassVar[bool] = False
    votes: ClassVar[bool] = True

    def __call__(self, rollouts: Rollouts, verifier: Any) -> Verdicts:
        """Verdicts over all rows; `vote` holds the label of each group, which the other group gave."""
        answers, groups = [verifier.extract(text) for text in rollouts.text], rollouts.group.tolist()
        heard: dict[int, list[str | None]] = {}
        for group, answer in zip(groups, answers, strict=True):
            heard.setdefault(group, []).append(answer)
        other = partners({g: e.id for g, e in zip(groups, rollouts.example, strict=True)})
        vote = {g: majority(heard[other[g]]) if g in other else None for g in heard}
        right = agreement(verifier, [(a, vote[g]) for a, g in zip(answers, groups, strict=True)])
        return Verdicts.of(answers, right, vote)


def method() -> PolicyGradient:
    """Co-rewarding-I as a record of parts."""
    parent = ttrl.method()
    collect = Answers(prompts=Paraphrased(), label=CrossVote())
    return parent.replace(collect=collect, terms=(KLToReference(coef=0.005),), descent=replace(parent.descent, lr=3e-6))
