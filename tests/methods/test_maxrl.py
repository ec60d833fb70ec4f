"""MaxRL: numbers on paper, zero where there is nothing to weigh, and the maximum-likelihood gradient it stands for."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from rekindle.methods import dr_grpo, grpo, maxrl
from rekindle.train.options import diff
from tests.batches import hand_batch, make_batch

METHOD = maxrl.method()


def test_one_right_answer_in_four_and_three_in_four() -> None:
    assert METHOD.credit(hand_batch([1.0, 0.0, 0.0, 0.0])).advantage[:, 0].tolist() == [3.0, -1.0, -1.0, -1.0]
    got = METHOD.credit(hand_batch([1.0, 1.0, 1.0, 0.0])).advantage[:, 0].tolist()
    assert got == pytest.approx([1 / 3, 1 / 3, 1 / 3, -1.0], rel=1e-12)


@pytest.mark.parametrize("score", [[0.0] * 4, [1.0] * 4, [0.7] * 4, [-1.0, 0.0, 0.0, 0.5], [-1.0, 1.0]])
def test_nothing_where_scores_agree_or_their_mean_is_not_positive(score: list[float]) -> None:
    assert (METHOD.credit(hand_batch(score, dtype=torch.float32)).advantage == 0).all()


def test_it_is_dr_grpo_over_the_groups_mean() -> None:
    batch = make_batch(B=17, ungraded=True, shaped=True)
    got, plain = METHOD.credit(batch).advantage, dr_grpo.method().credit(batch).advantage
    for i in range(len(batch)):
        rows = (batch.group == batch.group[i]) & batch.graded
        mean = batch.score[rows].mean() if rows.any() else torch.tensor(1.0)
        torch.testing.assert_close(got[i], plain[i] / mean.clamp(min=1e-9), rtol=1e-12, atol=1e-15)
    assert (got != 0).any()


def test_the_advantages_of_a_group_cancel() -> None:
    batch = make_batch(B=17)
    got = METHOD.credit(batch).advantage.amax(1) + METHOD.credit(batch).advantage.amin(1)
    for g in batch.group.unique():
        assert got[batch.group == g].sum().item() == pytest.approx(0, abs=1e-12)


def test_in_expectation_it_is_the_log_of_the_success_rate_up_to_the_order_of_the_group_size() -> None:
    """E[sum A dlogp] / G = sum over k < G of (1-p)^(k-1) dp, by enumeration: d log p as G grows (without k = G)."""
    p, size = 0.3, 5
    score_slope = {1.0: 1 / p, 0.0: -1 / (1 - p)}
    total = 0.0
    for rows in product([0.0, 1.0], repeat=size):
        chance = torch.tensor([p if r else 1 - p for r in rows], dtype=torch.float64).prod().item()
        advantage = METHOD.credit(hand_batch(list(rows))).advantage[:, 0].tolist()
        total += chance * sum(a * score_slope[r] for a, r in zip(advantage, rows, strict=True)) / size
    assert total == pytest.approx(sum((1 - p) ** (k - 1) for k in range(1, size)), rel=1e-12)
    assert 1 < total < 1 / p, "more than the gradient of the success rate, less than that of its log"


def test_only_the_advantage_differs_from_grpo() -> None:
    assert {change.path.split(".")[0] for change in diff(grpo.method(), METHOD)} == {"advantage"}
