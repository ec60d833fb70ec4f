"""Dr. GRPO on paper, and its reductions: to GRPO's parts where rows are full, to RLOO by a factor."""

from __future__ import annotations

import pytest
import torch

from rekindle.core.aggregate import TokenMean
from rekindle.core.types import Now
from rekindle.methods import dr_grpo, grpo, rloo
from tests.batches import hand_batch
from tests.methods.made import WIDTH, group_rollouts
from tests.methods.stage import GROUP, collected, on_leaves

METHOD = dr_grpo.method()


def test_one_right_answer_in_four() -> None:
    batch = hand_batch([1.0, 0.0, 0.0, 0.0], [2, 4, 3, 1], limit=torch.full((4,), 5))
    old = torch.zeros(batch.mask.shape, dtype=torch.float64)
    batch = METHOD.credit(batch.with_columns(logp_old=old))
    want = torch.tensor([[0.75], [-0.25], [-0.25], [-0.25]], dtype=torch.float64).where(batch.mask, 0.0)
    assert torch.equal(batch.advantage, want)
    loss, grad, _ = on_leaves(METHOD, batch, Now(logp=old, entropy=old))
    assert loss == pytest.approx(-(1.5 - 2.0) / 20, rel=1e-12), "4 rows x a limit of 5 tokens"
    torch.testing.assert_close(grad, -want / 20, rtol=1e-12, atol=0)


def test_no_blow_up_of_almost_homogeneous_groups() -> None:
    batch = hand_batch([1.0] + [0.0] * 7)
    assert METHOD.credit(batch).advantage[0].item() == pytest.approx(0.875)
    assert grpo.method().credit(batch).advantage[0].item() == pytest.approx(2.475, abs=1e-3)


def test_a_bad_action_costs_without_bound() -> None:
    batch = METHOD.credit(hand_batch([1.0, 0.0], limit=torch.ones(2, dtype=torch.int64)))
    old = torch.zeros(2, 1, dtype=torch.float64)
    now = Now(logp=old + torch.tensor(9.0).log(), entropy=old)
    _, grad, _ = on_leaves(METHOD, batch.with_columns(logp_old=old), now)
    assert grad[1].item() == pytest.approx(9.0 * 0.5 / 2), "no dual clip"


def test_at_full_length_the_aggregate_is_the_token_mean() -> None:
    batch = METHOD.credit(hand_batch([1.0, 0.0, 1.0], [4, 4, 4], limit=torch.full((3,), 4)))
    torch.testing.assert_close(METHOD.aggregate(batch, batch.live), TokenMean()(batch, batch.live))


def test_the_limit_is_that_of_the_run() -> None:
    batch = collected(METHOD, group_rollouts(0), max_tokens=50)[1]
    weight = METHOD.weigh(batch).column("weight")
    assert weight[batch.live].tolist() == pytest.approx([1 / (50 * len(batch))] * int(batch.live.sum()))


def test_rloo_is_dr_grpo_times_g_over_g_minus_one() -> None:
    stage, batch = collected(METHOD, group_rollouts(5), group_size=GROUP)
    other = rloo.method().replace(objective=METHOD.objective, aggregate=METHOD.aggregate)
    assert len(batch) == GROUP and (batch.advantage != 0).any() and batch.column("limit").unique().tolist() == [WIDTH]
    now = stage.policy(batch).detach()
    ours, theirs = on_leaves(METHOD, batch, now), on_leaves(other, other.credit(batch), now)
    torch.testing.assert_close(theirs[1], ours[1] * GROUP / (GROUP - 1), rtol=1e-12, atol=1e-15)
    assert theirs[0] == pytest.approx(ours[0] * GROUP / (GROUP - 1), rel=1e-12)


def test_rows_outside_the_loss_do_not_dilute_it() -> None:
    batch = hand_batch([1.0, 0.0, 0.0], [2, 2, 2], graded=[True, True, False], limit=torch.full((3,), 5))
    weight = METHOD.weigh(METHOD.credit(batch)).column("weight")
    assert weight.tolist() == [[0.1, 0.1], [0.1, 0.1], [0.0, 0.0]]
