"""The verifier with a grader: success, ungraded rows, counts, votes by mathematics, tasks that grade rows, ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch

from rekindle.errors import InputError
from rekindle.tokens.grading.base import STATUSES, Grade, GradesRows
from rekindle.tokens.grading.grader import Grader
from rekindle.tokens.labels import Answered, ComparesMany, MajorityVote, Verified, agreement, classes
from rekindle.tokens.rewards import Reward, Rewards
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.verify import Verifier
from rekindle.train.meter import alarms, meter
from tests.methods.made import Said, spoken
from tests.tokens.grading.test_grader import on_ranks


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    made = Grader("math", "boxed", deadline=6.0)
    yield made
    made.close()


def boxes(*answers: str) -> list[str]:
    return [rf"so \boxed{{{a}}}" if a else "so" for a in answers]


def test_success_follows_the_grader_and_is_counted(grader: Grader) -> None:
    rollouts = spoken(boxes(r"\sqrt{12}", r"2\sqrt{3}", "2", "", r"\sqrt{12}"), truth=r"2\sqrt{3}")
    rollouts = replace(rollouts, finish=["eos", "eos", "eos", "eos", "length"])
    verdicts = Verified()(rollouts, Verifier(Said(), grader=grader))
    assert verdicts.success.tolist() == [True, True, False, False, False], "the last was cut off"
    assert verdicts.graded.all() and verdicts.answer == [r"\sqrt{12}", r"2\sqrt{3}", "2", None, r"\sqrt{12}"]
    want = {"ok": 4, "no_answer": 1}
    assert verdicts.metrics == {f"grading/{status}": (want.get(status, 0), 5) for status in STATUSES}


def test_a_hanging_answer_fails_and_a_hanging_reference_leaves_its_row_out(grader: Grader) -> None:
    tower = "9^{9^{9^9}}"
    rollouts = spoken(boxes(tower, "7"), truth="7")
    rollouts = replace(rollouts, example=[rollouts.example[0], Example("hangs", "x", tower)])
    verifier = Verifier(Said(), grader=grader)
    verdicts = verifier.verify(rollouts)
    assert verdicts.success.tolist() == [False, False] and verdicts.graded.tolist() == [True, False]
    assert verdicts.metrics["grading/timeout"] == (1, 2) and verdicts.metrics["grading/reference_invalid"] == (1, 2)
    truths = verifier.truths(verdicts.answer, rollouts)
    assert truths[0] == 0 and truths[1].isnan(), "not asked again within a step"


def test_a_vote_counts_what_mathematics_holds_equal(grader: Grader) -> None:
    verifier = Verifier(Said(), grader=grader)
    rollouts = spoken(boxes(r"2\sqrt{3}", r"\sqrt{12}", "5", "5", ""), truth="5")
    by_string, by_equality = (MajorityVote(by=by)(rollouts, verifier) for by in ("string", "equality"))  # type: ignore[arg-type]
    assert by_string.vote == {0: "5"} and by_string.success.tolist() == [False, False, True, True, False]
    three = spoken(boxes(r"2\sqrt{3}", r"\sqrt{12}", r"\sqrt{12}", "5"))
    vote = MajorityVote()(three, verifier)
    assert vote.vote == {0: r"\sqrt{12}"} and vote.success.tolist() == [True, True, True, False]
    assert by_equality.vote[0] in ("5", r"2\sqrt{3}")
    assert Answered()(rollouts, verifier).success.tolist() == [True] * 4 + [False]
    assert isinstance(verifier, ComparesMany)
    assert classes([r"\sqrt{12}", r"2\sqrt{3}", "5", None], verifier) == [r"2\sqrt{3}", r"2\sqrt{3}", "5", None]


def test_a_meter_of_graded_rollouts(grader: Grader) -> None:
    verifier = Verifier(Said(), grader=grader)
    rollouts = spoken(boxes(r"\sqrt{4}", "2", "", ""), truth="2")
    label = MajorityVote()
    verdicts = label(rollouts, verifier)
    got = meter(rollouts, verdicts, torch.arange(4), label, verifier)
    assert got["truth/pass@1"] == (2.0, 4) and got["truth/label_accuracy"] == (1.0, 1.0)


@pytest.mark.parametrize(
    ("by", "texts", "equal"),
    [
        ("json", ['{"a": 1, "b": 2}', '{"b":2,"a":1}', '{"title": "x"}', '{"a": 1'], [True, False, False]),
        ("code", ["f = 1\n", "f = 1", "assert f(2) == 4", "f = 2"], [True, False, False]),
    ],
)
def test_no_answer_is_the_schema_or_the_test_of_another(by: str, texts: list[str], equal: list[bool]) -> None:
    grader = Grader(by, "boxed")
    verifier = Verifier(Said(), grader=grader)
    assert verifier.same([(texts[0], other) for other in texts[1:]]) == equal
    assert verifier.same([(texts[3], texts[2]), (None, texts[0]), (None, None)]) == [False] * 3
    assert agreement(verifier, [(texts[0], texts[1]), (texts[0], texts[2])]) == [True, False]
    assert not grader.pool._threads, "a program of a response is run by no vote"  # type: ignore[attr-defined]


class Stub:
    """A verifier that knows single pairs only."""

    def grade(self, answer: str | None, reference: str | None) -> bool:
        return str(answer).lower() == str(reference).lower()


def test_agreement_of_many_pairs() -> None:
    pairs = [("a", "A"), ("a", "b"), (None, "a"), ("", ""), ("q", "q"), ("a", "A")]
    assert agreement(Stub(), pairs) == [True, False, False, False, True, True]


@dataclass(frozen=True)
class ByRow(Said):
    """Grades whole responses, and remembers which it saw."""

    seen: list[str] = field(default_factory=list)

    def grade_rows(self, texts: Sequence[str], examples: Sequence[Example]) -> list[Grade]:
        self.seen.extend(texts)
        return [
            Grade.of(None if e.answer == "?" else "!" in t, self.extract(t))
            for t, e in zip(texts, examples, strict=True)
        ]


def row_rollouts() -> Rollouts:
    rollouts = spoken(["a!=1", "b=2", "c!=3", "a!=1"], truth="1")
    return replace(rollouts, example=[*rollouts.example[:2], Example("9", "x", "?"), rollouts.example[3]])


def test_a_task_may_grade_whole_responses() -> None:
    task = ByRow()
    verifier = Verifier(task)
    assert isinstance(task, GradesRows) and not isinstance(Said(), GradesRows)
    verdicts = verifier.verify(row_rollouts())
    assert verdicts.success.tolist() == [True, False, False, True] and verdicts.graded.tolist() == [
        True,
        True,
        False,
        True,
    ]
    assert verdicts.answer == ["1", "2", "3", "1"] and verdicts.metrics["grading/reference_invalid"] == (1, 4)
    assert verifier.truths(verdicts.answer, row_rollouts()).nan_to_num(nan=-1).tolist() == [1, 0, -1, 1]
    assert task.seen == ["a!=1", "b=2", "c!=3"], "each response to a prompt once"


@dataclass(frozen=True)
class Late(ByRow):
    """Each response runs out of time."""

    def grade_rows(self, texts: Sequence[str], examples: Sequence[Example]) -> list[Grade]:
        self.seen.extend(texts)
        return [Grade(False, "timeout", text) for text in texts]


def test_a_time_out_of_a_task_is_believed_for_a_step_and_for_good_the_second_time() -> None:
    task, rollouts = Late(), spoken(["a!=1"], truth="1")
    verifier = Verifier(task)
    counts = []
    for _ in range(4):
        assert verifier.grades(rollouts)[0].status == "timeout"
        assert verifier.truths(["1"], rollouts).tolist() == [0], "not asked again within a step"
        counts.append(len(task.seen))
    assert counts == [1, 2, 2, 2]


def test_ranks_share_whole_responses_and_agree() -> None:
    tasks = [ByRow(), ByRow()]
    got = on_ranks(2, lambda rank: Verifier(tasks[rank.index], ranks=rank).verify(row_rollouts()))
    assert all(v.success.tolist() == [True, False, False, True] for v in got)
    assert tasks[0].seen == ["a!=1", "c!=3"] and tasks[1].seen == ["b=2"]


def test_reward_functions_run_on_the_first_rank_with_all_rows() -> None:
    heard: list[int] = []

    def reward(completions: list[str]) -> list[float]:
        heard.append(len(completions))
        return [float("!" in text) for text in completions]

    rewards = Rewards((Reward("r", reward),))
    got = on_ranks(2, lambda rank: Verifier(Said(), rewards, ranks=rank).verify(row_rollouts()))
    assert heard == [4] and all(v.score.tolist() == [1, 0, 1, 1] for v in got)
    assert got[0].metrics == got[1].metrics == {"reward/r": (3.0, 4)}

    def broken(completions: list[str]) -> list[float]:
        return [1.0]

    wrong = Rewards((Reward("r", broken),))
    told = on_ranks(2, lambda rank: Verifier(Said(), wrong, ranks=rank).verify(row_rollouts()))
    assert all(isinstance(error, InputError) and "1 rewards for 4" in str(error) for error in told)


def test_without_a_grader_nothing_is_counted_and_all_is_the_tasks() -> None:
    verifier = Verifier(Said())
    verdicts = verifier.verify(spoken(["a=5", "b=7", "c"], truth="5"))
    assert verdicts.metrics == {} and verdicts.success.tolist() == [True, False, False]
    grades = verifier.grades(spoken(["a=5", "b=7", "c"], truth="5"))
    assert [g.status for g in grades] == ["ok", "ok", "no_answer"] and grades[0].extracted == "5"
    verifier.close()


def test_alarms_at_the_first_step() -> None:
    assert alarms({"no_answer": (5, 10), "groups/dead": (9, 10)}) == []
    told = alarms({"no_answer": (6, 10), "groups/dead": (10, 10)})
    assert told[0].startswith("60% of the responses state no answer") and told[1].startswith("100% of the groups")
    assert alarms({"no_answer": (0, 0)}) == []
    assert alarms({"no_answer": (9, 10), "reward/length": (3.0, 10)}) == [], "a reward function extracts nothing"
