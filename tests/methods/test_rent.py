"""RENT: the source's example, what it reads, the fallback for what cannot be parsed, and the std it divides by."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rekindle.core.advantages import GroupNormalized
from rekindle.core.types import ENTROPY_OLD
from rekindle.methods import grpo, rent
from rekindle.methods.rent import NegativeEntropy
from rekindle.tokens.labels import Answered
from tests.batches import hand_batch
from tests.methods.made import VERIFIER, group_rollouts, spoken
from tests.methods.stage import collected, on_leaves

METHOD = rent.method()
NAN = float("nan")


def scored(entropy: list[list[float]], parsed: list[bool], part: NegativeEntropy | None = None) -> torch.Tensor:
    """Scores of rows of one length each, whose entropies off the row are nan."""
    batch = hand_batch([float(p) for p in parsed], [len(row) for row in entropy])
    width = batch.mask.shape[1]
    column = torch.tensor([row + [NAN] * (width - len(row)) for row in entropy], dtype=torch.float64)
    return (part or NegativeEntropy())(batch.with_columns(entropy_old=column)).score


def test_worked_example() -> None:
    score = scored([[0.4], [0.1], [0.7], [0.2]], [True, True, True, False])
    assert score.tolist() == pytest.approx([-0.4, -0.1, -0.7, -7.0], abs=1e-15)
    got = GroupNormalized()(hand_batch(score.tolist()))[:, 0]
    assert got.tolist() == pytest.approx([0.4986, 0.5893, 0.4080, -1.4959], abs=1e-4)


def test_the_score_is_minus_the_mean_over_the_response() -> None:
    assert scored([[0.2, 0.4, 0.9], [1.0]], [True, True]).tolist() == pytest.approx([-0.5, -1.0])


def test_without_the_fallback_an_unparsed_response_is_scored_like_any_other() -> None:
    assert scored([[0.4], [0.2]], [True, False], NegativeEntropy(unparsed=None)).tolist() == [-0.4, -0.2]


def test_a_unanimous_group_still_has_advantages() -> None:
    _, batch = collected(METHOD, group_rollouts(2))
    assert batch.success.all() and (batch.advantage > 0).any() and (batch.advantage < 0).any()
    rows = batch.live.any(dim=1)
    assert (batch.score[rows] < 0).all() and batch.score.unique().numel() > 3


def test_the_entropy_is_that_of_the_weights_that_sampled() -> None:
    assert METHOD.needs()[1] is ENTROPY_OLD
    stage, batch = collected(METHOD, group_rollouts(5))
    mean = batch.column("entropy_old").where(batch.live, 0.0).sum(dim=1) / batch.live.sum(dim=1)
    torch.testing.assert_close(batch.score, (-mean).where(batch.success, -7.0), rtol=1e-12, atol=0)
    now = stage.policy(batch).detach()
    _, by_logp, by_entropy = on_leaves(METHOD, batch, now)
    assert (by_entropy == 0).all() and (by_logp != 0).any(), "the reward is detached"


def test_neutral_scores_and_no_kl_are_grpo() -> None:
    rollouts = group_rollouts(5)
    neutral = METHOD.replace(prepare=(), terms=())
    (stage, ours), (_, theirs) = collected(neutral, rollouts), collected(grpo.method(), rollouts)
    ours = neutral.credit(replace(ours, score=theirs.score))
    now = stage.policy(ours).detach()
    got, want = on_leaves(neutral, ours, now), on_leaves(grpo.method(), theirs, now)
    assert got[0] == want[0] and torch.equal(got[1], want[1]) and (want[1] != 0).any()


def test_a_floor_under_the_std_keeps_small_differences_small() -> None:
    batch = hand_batch([-0.5, -0.501])
    assert GroupNormalized()(batch)[0, 0].item() == pytest.approx(0.707, abs=2e-3)
    assert abs(GroupNormalized(eps=0.1)(batch)[0, 0].item()) < 0.01


def test_a_success_is_that_an_answer_was_found() -> None:
    verdicts = Answered()(spoken(["x=5", "x", "y=7"]), VERIFIER)
    assert verdicts.success.tolist() == [True, False, True] and verdicts.graded.all() and verdicts.vote == {}
