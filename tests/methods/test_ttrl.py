"""TTRL: the source's worked example with its metrics, ties, nothing extracted, and GRPO with the gold label."""

from __future__ import annotations

import pytest
import torch

from rekindle.core.types import mean_metrics
from rekindle.methods import grpo, ttrl
from rekindle.tokens.collect import first_of_group, to_batch
from rekindle.tokens.labels import MajorityVote, Verdicts
from rekindle.tokens.rollouts import Rollouts
from rekindle.train.estimators import pass_at_k
from rekindle.train.meter import meter, vote_metrics
from tests.methods.made import VERIFIER, group_rollouts, spoken
from tests.methods.stage import collected, on_leaves

METHOD = ttrl.method()
ANSWERS = ["5", "5", "3", "7", "5", "2", "7", "9"]


def voted(answers: list[str], truth: str | None = None) -> tuple[Rollouts, Verdicts]:
    rollouts = spoken([f"x={a}" for a in answers], truth=truth)
    return rollouts, MajorityVote()(rollouts, VERIFIER)


def advantages(rollouts: Rollouts, verdicts: Verdicts) -> list[float]:
    return METHOD.credit(to_batch(rollouts, verdicts, torch.tensor(0))).advantage[:, 0].tolist()


def test_worked_example() -> None:
    rollouts, verdicts = voted(ANSWERS, truth="7")
    first = first_of_group(rollouts, 4)
    assert verdicts.vote == {0: "5"} and first.tolist() == [0, 1, 2, 3]
    assert verdicts.score.tolist() == [1, 1, 0, 0, 1, 0, 0, 0]
    got = mean_metrics(meter(rollouts, verdicts, first, MajorityVote(), VERIFIER))
    want = {"vote/majority_share": 0.375, "truth/label_accuracy": 0.0, "truth/reward_accuracy": 0.375}
    want |= {"truth/pass@1": 0.25, "success": 0.375, "groups/dead": 0.0}
    assert {name: got[name] for name in want} == pytest.approx(want)
    assert pass_at_k(8, 2, 8) == 1.0
    trained = advantages(rollouts.take(first), verdicts.take(first))
    assert trained == pytest.approx([0.866024, 0.866024, -0.866024, -0.866024], abs=1e-6)
    kept = rollouts.take(first), verdicts.take(first)
    truth = VERIFIER.truths(kept[1].answer, kept[0])
    post = mean_metrics(vote_metrics(*kept, truth, VERIFIER))
    assert post["truth/reward_accuracy"] == pytest.approx(0.25)


def test_reward_accuracy_is_one_with_a_right_label_and_known_with_a_wrong_one() -> None:
    for truth, want in (("5", 1.0), ("7", 1 - 3 / 8 - 2 / 8), ("4", 1 - 3 / 8)):
        rollouts, verdicts = voted(ANSWERS, truth)
        metrics = mean_metrics(meter(rollouts, verdicts, torch.arange(8), MajorityVote(), VERIFIER))
        assert metrics["truth/reward_accuracy"] == pytest.approx(want)


@pytest.mark.parametrize("right", [8, 16, 29])
def test_advantages_by_majority_share(right: int) -> None:
    p = right / 32
    rollouts, verdicts = voted(["5"] * right + [str(10 + i) for i in range(32 - right)])
    got = advantages(rollouts, verdicts)
    scale = (31 / 32) ** 0.5  # the sample standard deviation in place of the source's population one
    assert got[0] == pytest.approx(scale * ((1 - p) / p) ** 0.5, rel=1e-5)
    assert got[-1] == pytest.approx(-scale * (p / (1 - p)) ** 0.5, rel=1e-5)


@pytest.mark.parametrize(("answers", "label"), [("9 10 9 10 3", "10"), ("10 9", "10"), ("2 1 2 1 1", "1")])
def test_ties_go_to_the_smallest_string(answers: str, label: str) -> None:
    verdicts = voted(answers.split())[1]
    assert verdicts.vote[0] == label
    assert verdicts.success.tolist() == [a == label for a in answers.split()]


def test_a_vote_is_on_strings_and_the_score_on_equivalence() -> None:
    _, verdicts = voted(["1/2", "1/2", "0.5", "3", "3", "3"])
    assert verdicts.vote[0] == "3" and verdicts.score.tolist() == [0, 0, 0, 1, 1, 1]
    _, verdicts = voted(["1/2", "1/2", "0.5", "3"])
    assert verdicts.vote[0] == "1/2" and verdicts.score.tolist() == [1, 1, 1, 0]


def test_nothing_extracted_is_no_vote_and_no_success() -> None:
    _, verdicts = voted(["", "", "5"])
    assert verdicts.vote[0] == "5" and verdicts.score.tolist() == [0, 0, 1], "the empty answer never votes"
    rollouts, verdicts = voted(["", "", ""], truth="5")
    assert verdicts.vote[0] is None and not verdicts.success.any()
    metrics = mean_metrics(meter(rollouts, verdicts, torch.arange(3), MajorityVote(), VERIFIER))
    assert metrics["vote/majority_share"] == 0.0 and metrics["truth/label_accuracy"] == 0.0
    assert metrics["no_answer"] == 1.0 and metrics["vote/entropy"] == 0.0
    assert advantages(rollouts, verdicts) == [0.0, 0.0, 0.0]


def test_row_order_changes_nothing() -> None:
    rollouts, verdicts = voted(["9", "10", "9", "10", "", "3"])
    for seed in range(5):
        order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
        again = MajorityVote()(rollouts.take(order), VERIFIER)
        assert again.vote == verdicts.vote == {0: "10"}
        assert torch.equal(again.score, verdicts.score[order])


def test_a_unanimous_group_has_no_policy_gradient_and_only_the_kl_term_acts() -> None:
    stage, batch = collected(METHOD, group_rollouts(2))
    now = stage.policy(batch).detach()
    assert (batch.advantage == 0).all()
    assert (on_leaves(METHOD.replace(terms=()), batch, now)[1] == 0).all()
    loss, grad, _ = on_leaves(METHOD, batch, now)
    x = batch.column("logp_ref") - now.logp
    k3 = x.exp() - x - 1
    assert loss == pytest.approx(0.001 * k3.clamp(max=10)[batch.live].mean().item(), rel=1e-12)
    want = (0.001 * (1 - x.exp()) / batch.live.sum()).where(batch.live & (k3 < 10), 0.0)
    torch.testing.assert_close(grad, want)


def test_with_the_gold_label_it_is_grpo() -> None:
    rollouts = group_rollouts(5)
    gold = METHOD.replace(terms=())
    (stage, ours), (_, theirs) = collected(gold, rollouts), collected(grpo.method(), rollouts)
    assert ours.success.tolist() == theirs.success.tolist(), "here the majority is right"
    now = stage.policy(ours).detach()
    got, want = on_leaves(gold, ours, now), on_leaves(grpo.method(), theirs, now)
    assert got[0] == want[0] and torch.equal(got[1], want[1]) and (want[1] != 0).any()
    misled = collected(gold, group_rollouts(1))[1]
    assert misled.success.tolist() != collected(grpo.method(), group_rollouts(1))[1].success.tolist()
