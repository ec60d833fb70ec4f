"""Labels: votes, verdicts against references and reward functions, and that a vote never sees a reference."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch

from rekindle.methods.empo import ClusterShare
from rekindle.methods.evol_rl import NoveltyBands
from rekindle.tokens.labels import Answered, MajorityVote, Verdicts, Verified, agrees, classes, majority
from rekindle.tokens.rewards import Reward, Rewards
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.verify import Verifier
from rekindle.train.refusals import ReadsAnswers
from rekindle.train.settings import Labelling, parts
from tests.methods.made import VERIFIER, Said, group_rollouts, spoken
from tests.methods.records import labels, record_of
from tests.methods.stage import Stage, table_stage

READS = (Labelling, ReadsAnswers)
"""What may read references: a label that says so, a part that scores the start weights' answers."""


def reads_references(label: str) -> bool:
    found = [part for part in parts(record_of(label)) if isinstance(part, READS)]
    return any(isinstance(part, ReadsAnswers) or part.needs_truth is True for part in found)


LABEL_FREE = [name for name in labels() if not reads_references(name)]


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


class Near:
    """A grader of fuzzy equality: numbers at most 1 apart are equal, which is not transitive."""

    def grade(self, answer: str | None, reference: str | None) -> bool:
        return abs(int(answer or 0) - int(reference or 0)) <= 1


def test_classes_join_what_is_equal_directly_or_through_others() -> None:
    answers = ["3", "9", "1", "2", None, "", "8"]
    assert classes(answers, Near()) == ["1", "8", "1", "1", None, None, "8"]
    order = [3, 1, 6, 0, 5, 2, 4]
    again = classes([answers[i] for i in order], Near())
    assert again == [classes(answers, Near())[i] for i in order], "whatever the row order"
    assert classes(["1/2", "0.5", "3", "2/4"], VERIFIER) == ["0.5", "0.5", "3", "0.5"]
    assert classes([], VERIFIER) == [] and classes([None], VERIFIER) == [None]


def test_a_vote_by_equality_counts_equal_answers_as_one() -> None:
    rollouts = spoken(["x=1/2", "x=0.5", "x=2/4", "x=3", "x=3", "x"])
    by_string, by_equality = (MajorityVote(by=by)(rollouts, VERIFIER) for by in ("string", "equality"))  # type: ignore[arg-type]
    assert by_string.vote == {0: "3"} and by_string.success.tolist() == [False] * 3 + [True] * 2 + [False]
    assert by_equality.vote == {0: "0.5"} and by_equality.success.tolist() == [True] * 3 + [False] * 3
    same = spoken(["x=3", "x=3", "x=7"])
    assert MajorityVote(by="equality")(same, VERIFIER).vote == MajorityVote()(same, VERIFIER).vote


@pytest.mark.parametrize(
    ("answers", "lead"),
    [("5 5 5 7", 0.5), ("5 5 7 7", 0.0), ("5 5 5 5", 1.0), ("5 5 7 -", 0.25), ("5 - - -", 0.25), ("- - - -", 0.0)],
)
def test_a_group_abstains_below_the_margin(answers: str, lead: float) -> None:
    said = [a if a != "-" else "" for a in answers.split()]
    rollouts = spoken([f"x={a}" if a else "x" for a in said])
    label = MajorityVote()(rollouts, VERIFIER).vote[0]
    for margin in (0.0, 0.25, 0.26, 0.5, 0.51, 1.0):
        verdicts = MajorityVote(margin=margin)(rollouts, VERIFIER)
        labelled = margin <= lead and label is not None
        assert verdicts.vote[0] == (label if labelled else None)
        assert verdicts.success.tolist() == [labelled and a == label for a in said]
        assert verdicts.graded.all(), "who abstains still counts in every mean"


@pytest.mark.parametrize("margin", [-0.1, 1.01])
def test_a_margin_is_a_share(margin: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        MajorityVote(margin=margin)


def test_the_margin_counts_equal_answers_as_one_where_the_vote_does() -> None:
    rollouts = spoken(["x=1/2", "x=0.5", "x=3", "x=2/4"])
    assert MajorityVote(margin=0.5, by="equality")(rollouts, VERIFIER).vote == {0: "0.5"}
    assert MajorityVote(margin=0.5)(rollouts, VERIFIER).vote == {0: None}


def test_soft_votes_are_shares_of_the_group_with_equal_answers_as_one() -> None:
    rollouts = spoken(["x=5", "x=5.0", "x=7", "x", "x=7", "x=7"], group=[0, 0, 0, 0, 1, 1])
    stage = table_stage(record_of("empo"))
    verdicts = ClusterShare()(rollouts, MajorityVote()(rollouts, VERIFIER), stage)
    assert verdicts.score.tolist() == [0.5, 0.5, 0.25, 0, 1, 1]
    hard = MajorityVote(by="equality")(rollouts, VERIFIER)
    assert ((verdicts.score == 0.5) | (verdicts.score == 1)).tolist() == hard.success.tolist()


def test_answered_is_that_an_answer_was_found() -> None:
    verdicts = Answered()(spoken(["a=5", "a", "a=7"], truth="5"), VERIFIER)
    assert verdicts.success.tolist() == [True, False, True] and verdicts.answer == ["5", None, "7"]
    assert verdicts.graded.all() and verdicts.vote == {} and not Answered.needs_truth and not Answered.votes


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
    stage = table_stage(record_of("evol_rl"))
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

    method = record_of(name)
    stage: Stage = table_stage(method, source=source)
    method.step(stage)
    return torch.cat([p.detach().flatten() for p in stage.parameters])


@pytest.mark.parametrize("name", LABEL_FREE)
def test_the_weights_of_a_label_free_step_do_not_depend_on_references(name: str) -> None:
    want = weights_after_a_step(name, None)
    assert all(torch.equal(weights_after_a_step(name, change), want) for change in (1, 2, 4))


def test_the_check_can_fail() -> None:
    assert {"ttrl", "evol_rl", "sft"} <= set(LABEL_FREE) and not {"grpo", "a_lol"} & set(LABEL_FREE)
    assert not torch.equal(weights_after_a_step("grpo", None), weights_after_a_step("grpo", 1))
