"""What a step's rollouts show: entropy, dead groups, ways of working, and the truth meter of label-free runs.

The truth meter compares votes with references that never touch the reward: is the majority right, and how often does
the reward agree with the truth. Metrics are (sum, count) pairs; formulas as in TTRL (arXiv 2504.16084).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from rekindle.core.groups import group_constant
from rekindle.core.types import Metrics, add_metrics
from rekindle.tokens.labels import Label, Verdicts
from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.verify import Verifier
from rekindle.train.health import health_metrics

NO_ANSWER, DEAD = 0.5, 0.9
"""Shares of responses without an answer, and of groups without a signal, above which a first step is told of."""


def meter(rollouts: Rollouts, verdicts: Verdicts, trained: Tensor, label: Label, verifier: Verifier) -> Metrics:
    """Metrics of all N samples a prompt (votes), and of the `trained` rows among them."""
    if rollouts.given is not None:
        return given_metrics(rollouts, verdicts)
    rows = len(rollouts)
    mask, graded = rollouts.mask, verdicts.graded
    truth = verifier.truths(verdicts.answer, rollouts)
    known = ~truth.isnan()
    metrics: Metrics = {}
    if rollouts.entropy is not None:
        metrics["entropy"] = (rollouts.entropy[mask].sum().item(), mask.sum().item())
    metrics |= {
        "length": (mask.sum().item(), rows),
        "truncated": (sum(f == "length" for f in rollouts.finish), rows),
        "no_answer": (sum(a is None for a in verdicts.answer), rows),
        "graded": (graded.sum().item(), rows),
        "success": (verdicts.success[graded].sum().item(), graded.sum().item()),
        "score": (verdicts.score[graded].sum().item(), graded.sum().item()),
        "truth/pass@1": (truth[known].sum().item(), known.sum().item()),
    }
    if rollouts.entropy is not None:
        metrics |= entropy_by_success(rollouts.entropy, mask & graded[:, None], verdicts.success)
    metrics |= group_metrics(rollouts.take(trained), verdicts.take(trained))
    metrics |= way_metrics(rollouts.take(trained), verifier)
    metrics |= health_metrics(rollouts, verdicts)
    if label.votes:
        metrics |= vote_metrics(rollouts, verdicts, truth, verifier)
    return metrics


def given_metrics(rollouts: Rollouts, verdicts: Verdicts) -> Metrics:
    """What a step learns from where nothing was sampled: length of the data's responses, and their scores."""
    rows = len(rollouts)
    return {
        "data/length": (rollouts.mask.sum().item(), rows),
        "data/score": (verdicts.score.sum().item(), rows),
        "data/success": (verdicts.success.sum().item(), rows),
    }


def alarms(metrics: Metrics) -> list[str]:
    """What a run's first step should not show: sentences, empty where all is well. A wrong extractor looks like this.

    metrics: of the step, as `meter` gives them. With reward functions (`reward/NAME`) answers are none of the run's.
    """
    share = {name: total / count for name, (total, count) in metrics.items() if count}
    told = []
    rewarded = any(name.startswith("reward/") for name in metrics)
    if not rewarded and share.get("no_answer", 0.0) > NO_ANSWER:
        told.append(
            f"{share['no_answer']:.0%} of the responses state no answer: is grading.extract the rule of this prompt, "
            "and rollout.max_tokens enough?"
        )
    if share.get("groups/dead", 0.0) > DEAD:
        told.append(f"{share['groups/dead']:.0%} of the groups are all right or all wrong: nothing to learn from them")
    return told


def group_metrics(rollouts: Rollouts, verdicts: Verdicts) -> Metrics:
    """Shares of the graded groups: score equal throughout (dead: no signal), all right, all wrong.

    score/lowest: of the groups with a score below 0, the mean of their lowest ones.
    """
    constant = group_constant(verdicts.score, rollouts.group, verdicts.graded)
    metrics: Metrics = {}
    for group in rollouts.group.unique():
        rows = (rollouts.group == group) & verdicts.graded
        if not rows.any():
            continue
        right, lowest = verdicts.success[rows], float(verdicts.score[rows].min())
        one: Metrics = {
            "groups/dead": (float(constant[rows].all()), 1.0),
            "groups/all_right": (float(right.all()), 1.0),
            "groups/all_wrong": (float((~right).all()), 1.0),
        }
        if lowest < 0:
            one["score/lowest"] = (lowest, 1.0)
        metrics = add_metrics(metrics, one)
    return metrics


def way_metrics(rollouts: Rollouts, verifier: Verifier) -> Metrics:
    """Share of each known way of working among the rows, and valid derivations; empty where the task knows none."""
    if not verifier.task.ways:
        return {}
    pairs = zip(rollouts.example, rollouts.text, strict=True)
    found = [verifier.task.derivation(example, text) for example, text in pairs]
    count = Counter(d.way for d in found if d is not None)
    metrics: Metrics = {f"ways/{way}": (count[way], len(found)) for way in verifier.task.ways}
    metrics["derivation/valid"] = (sum(d.valid for d in found if d is not None), len(found))
    return metrics


def vote_metrics(rollouts: Rollouts, verdicts: Verdicts, truth: Tensor, verifier: Verifier) -> Metrics:
    """Majority share and vote entropy (nats) of each prompt; label and reward accuracy where the truth is known."""
    metrics: Metrics = {}
    for group in rollouts.group.unique():
        rows = (rollouts.group == group).nonzero()[:, 0].tolist()
        answers = [verdicts.answer[i] for i in rows]
        label = verdicts.vote.get(int(group))
        one: Metrics = {
            "vote/majority_share": (sum(a == label for a in answers if a) / len(rows), 1.0),
            "vote/entropy": (vote_entropy(answers), 1.0),
        }
        right = verifier.grade(label, rollouts.example[rows[0]].answer)
        if right is not None:
            agree = (verdicts.success[rows].double() == truth[rows]).double()
            one["truth/label_accuracy"] = (float(right), 1.0)
            one["truth/reward_accuracy"] = (agree.sum().item(), len(rows))
        metrics = add_metrics(metrics, one)
    return metrics


def vote_entropy(answers: Sequence[str | None]) -> float:
    """-sum q log q over the parsed answers, in nats; 0 where none parsed."""
    counts = Counter(a for a in answers if a)
    total = sum(counts.values())
    return 0.0 - math.fsum(c / total * math.log(c / total) for c in counts.values())


def entropy_by_success(entropy: Tensor, mask: Tensor, success: Tensor) -> Metrics:
    """Token-mean entropy of right and of wrong rows: collapse shows there first."""
    out: Metrics = {}
    for name, rows in (("entropy/right", success), ("entropy/wrong", ~success)):
        inside = mask & rows[:, None]
        out[name] = (entropy[inside].sum().item(), inside.sum().item())
    return out
