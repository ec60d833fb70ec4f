"""Labels: votes, verdicts against references and reward functions, and that a vote never sees a reference."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch

from rekindle import methods
from rekindle.methods.evol_rl import NoveltyBands
from rekindle.tokens.labels import MajorityVote, Verdicts, Verified, agrees, majority
from rekindle.tokens.rewards import Reward, Rewards
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.verify import Verifier
from tests.methods.made import VERIFIER, Said, group_rollouts, spoken
from tests.methods.stage import Stage, table_stage

LABEL_FREE = [n for n in methods.names() if not methods.load(n).method().collect.label.needs_truth]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("answers", "label"),
    [
        (["b", "a", "b"], "b"),
        (["b", "a"], "a"),
        (["9", "10", "10", "9"], "10"),
        ([None, None, "3"], "3"),
        (["", "", "x"], "x"),
        ([None, ""], None),
        ([], None),
    ],
)
def test_majority(answers: list[str | None], label: str | None) -> None:
    assert majority(answers) == label
    Random(0).shuffle(answers)
    assert majority(answers) == label


def test_agreement_is_equality_in_the_tasks_sense() -> None:
    assert agrees(VERIFIER, "1/2", "0.5") and agrees(VERIFIER, "7", "7") and not agrees(VERIFIER, "7", "8")
    assert agrees(VERIFIER, "no number", "no number"), "equal strings need no grader"
    for answer, label in ((None, "5"), ("5", None), ("", ""), (None, None)):
        assert agrees(VERIFIER, answer, label) is False


def test_each_group_votes_alone() -> None:
    rollouts = spoken(["a=5", "a=7", "a=5", "a=7", "a=7", "a"], group=[3, 8, 3, 8, 3, 8])
    verdicts = MajorityVote()(rollouts, VERIFIER)
    assert verdicts.vote == {3: "5", 8: "7"}
    assert verdicts.success.tolist() == [True, True, True, True, False, False]
    assert verdicts.graded.all() and verdicts.score.tolist() == [1, 1, 1, 1, 0, 0]
    assert verdicts.answer == ["5", "7", "5", "7", "7", None]


def test_verified_against_references() -> None:
    rollouts = replace(
        spoken(["a=5", "a=5.0", "a=7", "a", "a=5"], truth="5"), finish=["eos", "stop", "eos", "eos", "length"]
    )
    verdicts = Verified()(rollouts, VERIFIER)
    assert verdicts.success.tolist() == [True, True, False, False, False], "a truncated response is no success"
    assert verdicts.score.tolist() == [1, 1, 0, 0, 0] and verdicts.graded.all()


def test_a_broken_reference_is_ungraded_even_where_truncated() -> None:
    rollouts = replace(spoken(["a=5", "a=7"], truth="?"), finish=["eos", "length"])
    verdicts = Verified()(rollouts, VERIFIER)
    assert not verdicts.graded.any() and not verdicts.success.any() and (verdicts.score == 0).all()


def test_reward_functions_give_the_score_and_success_from_the_whole_weight_up() -> None:
    def length(completions: list[str]) -> list[float | None]:
        return [None if text == "none" else len(text) / 4 for text in completions]

    verifier = Verifier(Said(), Rewards((Reward("length", length),)))
    rollouts = replace(spoken(["ab", "abcd", "abcdef", "abcd", "none"]), finish=["eos", "eos", "eos", "length", "eos"])
    verdicts = Verified()(rollouts, verifier)
    assert verdicts.score.tolist() == [0.5, 1.0, 1.5, 1.0, 0.0], "a reward function's score stays as it is"
    assert verdicts.success.tolist() == [False, True, True, False, False]
    assert verdicts.graded.tolist() == [True] * 4 + [False]
    assert verdicts.reward is not None and verdicts.reward.tolist() == verdicts.score.tolist()
    assert verdicts.metrics == {"reward/length": (4.0, 4)}, "sum and count over the rows it answered"
    half = Verified()(rollouts, Verifier(Said(), Rewards((Reward("length", length, 0.5),))))
    assert torch.equal(half.score, verdicts.score / 2) and torch.equal(half.success, verdicts.success)
    assert half.metrics == verdicts.metrics, "unweighted"
    shaped = replace(verdicts, score=verdicts.score - 1).take(torch.tensor([2, 0]))
    assert shaped.reward is not None and shaped.reward.tolist() == [1.5, 0.5]
    assert shaped.metrics == verdicts.metrics
    assert Verified()(rollouts, VERIFIER).reward is None


def test_verdicts_follow_their_rows() -> None:
    verdicts = MajorityVote()(spoken(["a=5", "a=7", "a=5"]), VERIFIER).take(torch.tensor([1, 0]))
    assert verdicts.answer == ["7", "5"] and verdicts.success.tolist() == [False, True] and verdicts.vote == {0: "5"}
    assert Verdicts.of([None], [None], {}).graded.tolist() == [False]


def with_truths(rollouts: Rollouts, truths: list[str | None]) -> Rollouts:
    """The same rollouts with other references."""
    pairs = zip(rollouts.example, truths, strict=True)
    return replace(rollouts, example=[Example(e.id, e.prompt, truth, {"answer": truth}) for e, truth in pairs])


def other_truths(rollouts: Rollouts) -> list[Rollouts]:
    """References shuffled, wrong, broken, and removed."""
    truths = [e.answer for e in rollouts.example]
    Random(1).shuffle(truths)
    n = len(truths)
    return [with_truths(rollouts, t) for t in (truths, ["7"] * n, ["?"] * n, ["no number"] * n, [None] * n)]


def test_votes_and_novelty_never_see_a_reference() -> None:
    rollouts = Rollouts.concat([group_rollouts(g) for g in range(7)])
    shape = NoveltyBands()
    stage = table_stage(methods.load("evol_rl").method())
    voted = MajorityVote()(rollouts, VERIFIER)
    want = voted, shape(rollouts, voted, stage)
    assert want[0].success.any() and want[1].score.unique().numel() > 4
    for other in other_truths(rollouts):
        again = MajorityVote()(other, VERIFIER)
        for got, first in zip((again, shape(other, again, stage)), want, strict=True):
            assert torch.equal(got.score, first.score) and torch.equal(got.success, first.success)
            assert got.graded.all() and got.vote == first.vote and got.answer == first.answer


def weights_after_a_step(name: str, change: int | None) -> torch.Tensor:
    def source(g: int) -> Rollouts:
        rows = group_rollouts(g)
        return rows if change is None else other_truths(rows)[change]

    method = methods.load(name).method()
    stage: Stage = table_stage(method, source=source)
    method.step(stage)
    return torch.cat([p.detach().flatten() for p in stage.parameters])


@pytest.mark.parametrize("name", LABEL_FREE)
def test_the_weights_of_a_label_free_step_do_not_depend_on_references(name: str) -> None:
    want = weights_after_a_step(name, None)
    assert all(torch.equal(weights_after_a_step(name, change), want) for change in (1, 2, 4))


def test_the_check_can_fail() -> None:
    assert {"ttrl", "evol_rl"} <= set(LABEL_FREE)
    assert not torch.equal(weights_after_a_step("grpo", None), weights_after_a_step("grpo", 1))
