"""The meter: what a step's rollouts show, each number on paper, and no number where the truth is not known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from rekindle.core.types import mean_metrics
from rekindle.tokens.labels import MajorityVote, Verdicts, Verified
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.tasks.base import Derivation
from rekindle.tokens.verify import Verifier
from rekindle.train.meter import entropy_by_success, group_metrics, meter, vote_entropy, vote_metrics, way_metrics
from tests.methods.made import VERIFIER, Said, spoken


def measured(rollouts: Rollouts, label: MajorityVote | Verified, verifier: Verifier = VERIFIER) -> dict[str, float]:
    verdicts = label(rollouts, verifier)
    return mean_metrics(meter(rollouts, verdicts, torch.arange(len(rollouts)), label, verifier))


def test_vote_entropy_on_paper() -> None:
    assert vote_entropy(["A", "A", "B", "C", "C"]) == pytest.approx(1.0549, abs=1e-4)
    assert vote_entropy(["A", "A", None, ""]) == 0.0 and vote_entropy([None]) == 0.0
    assert vote_entropy(["A", "B", None]) == pytest.approx(0.6931, abs=1e-4), "over the parsed answers"


def test_a_label_free_step() -> None:
    rollouts = spoken([f"x={a}" for a in "55375279"] + ["x"] * 2, group=[0] * 8 + [1] * 2, truth="7")
    rollouts = replace(rollouts, finish=["eos"] * 8 + ["length", "eos"])
    got = measured(rollouts, MajorityVote())
    want = {
        "vote/majority_share": 0.375 / 2,
        "truth/label_accuracy": 0.0,
        "truth/reward_accuracy": (3 + 2) / 10,
        "truth/pass@1": 0.2,
        "success": 0.3,
        "score": 0.3,
        "no_answer": 0.2,
        "truncated": 0.1,
        "length": 1.0,
        "groups/dead": 0.5,
        "groups/all_wrong": 0.5,
        "groups/all_right": 0.0,
    }
    assert {name: got[name] for name in want} == pytest.approx(want)
    assert got["vote/entropy"] == pytest.approx(vote_entropy(list("55375279")) / 2)


def test_a_step_with_references_shows_no_vote() -> None:
    got = measured(spoken(["x=5", "x=7"], truth="5"), Verified())
    assert not [name for name in got if name.startswith("vote/")] and "truth/label_accuracy" not in got
    assert got["truth/pass@1"] == 0.5


def test_where_no_truth_is_known_nothing_is_said_about_it() -> None:
    rollouts = spoken(["x=5", "x=5", "x=7", "x=7"], group=[0, 0, 1, 1])
    got = measured(rollouts, MajorityVote())
    assert not [name for name in got if name.startswith("truth/")]
    half = replace(rollouts, example=[Example("a", "x", "5")] * 2 + [Example("b", "x")] * 2)
    got = measured(half, MajorityVote())
    assert got["truth/label_accuracy"] == 1.0 and got["truth/reward_accuracy"] == 1.0 and got["truth/pass@1"] == 1.0


def test_entropy_is_a_mean_over_tokens_split_by_success() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    entropy = torch.tensor([[0.3, 0.6, 0.9], [2.0, 9.0, 9.0], [0.1, 0.2, 9.0]])
    got = entropy_by_success(entropy, mask, torch.tensor([True, False, True]))
    assert mean_metrics(got) == pytest.approx({"entropy/right": 2.1 / 5, "entropy/wrong": 2.0})
    assert "entropy/wrong" not in mean_metrics(entropy_by_success(entropy, mask, torch.ones(3, dtype=torch.bool)))


def test_groups_by_their_graded_rows() -> None:
    rollouts = spoken(["x"] * 9, group=[0, 0, 0, 1, 1, 2, 2, 3, 3])
    right = [True, True, None, False, False, True, False, None, None]
    verdicts = Verdicts.of([None] * 9, right, {})
    got = group_metrics(rollouts, verdicts)
    assert got["groups/all_right"] == (1.0, 3.0) and got["groups/all_wrong"] == (1.0, 3.0), (
        "an ungraded group is neither"
    )
    assert got["groups/dead"] == (2.0, 3.0)
    shaped = replace(verdicts, score=torch.tensor([0.5, 1.0, 9, -1, -1, 0, 0, 0, 0], dtype=torch.float64))
    assert group_metrics(rollouts, shaped)["groups/dead"] == (2.0, 3.0), "dead by score, right by success"
    assert group_metrics(rollouts, shaped)["score/lowest"] == (-1.0, 1.0), "of the groups below 0 alone"
    assert "score/lowest" not in group_metrics(rollouts, verdicts)


@dataclass(frozen=True)
class Walked(Said):
    """A task with two ways of working: the words name them."""

    ways: tuple[str, ...] = ("up", "down")

    def derivation(self, example: Example, text: str) -> Derivation | None:  # type: ignore[override]
        words = self.steps(text)
        return None if words == "?" else Derivation(words != "lost", words, words if words in self.ways else None)


def test_ways_of_working() -> None:
    rollouts = spoken(["up=5", "up=5", "down=5", "lost=5", "?=5"], truth="5")
    got = mean_metrics(way_metrics(rollouts, Verifier(Walked())))
    assert got == pytest.approx({"ways/up": 0.4, "ways/down": 0.2, "derivation/valid": 0.6})
    assert way_metrics(rollouts, VERIFIER) == {}


def test_groups_and_ways_are_those_of_the_trained_rows_and_votes_those_of_all() -> None:
    rollouts = spoken([f"up={a}" for a in "5577777"], truth="7")
    label, verifier = MajorityVote(), Verifier(Walked())
    verdicts = label(rollouts, verifier)
    got = mean_metrics(meter(rollouts, verdicts, torch.tensor([0, 1]), label, verifier))
    assert got["groups/dead"] == got["groups/all_wrong"] == 1.0 and got["vote/majority_share"] == pytest.approx(5 / 7)
    assert got["truth/label_accuracy"] == 1.0


def test_sums_add_up_over_rounds() -> None:
    rollouts = spoken([f"x={a}" for a in "5577"], truth="7", group=[0, 0, 1, 1])
    verdicts = MajorityVote()(rollouts, VERIFIER)
    truth = VERIFIER.truths(verdicts.answer, rollouts)
    whole = vote_metrics(rollouts, verdicts, truth, VERIFIER)
    assert whole["truth/label_accuracy"] == (1.0, 2.0) and whole["truth/reward_accuracy"] == (2.0, 4)


def test_reward_accuracy_is_about_successes_not_about_shaped_scores() -> None:
    rollouts = spoken([f"x={a}" for a in "5577"], truth="5")
    verdicts = MajorityVote()(rollouts, VERIFIER)
    shaped = replace(verdicts, score=torch.tensor([0.9, 0.6, -0.5, -0.9], dtype=torch.float64))
    got = mean_metrics(meter(rollouts, shaped, torch.arange(4), MajorityVote(), VERIFIER))
    assert got["truth/reward_accuracy"] == 1.0 and got["score"] == pytest.approx(0.025) and got["success"] == 0.5
