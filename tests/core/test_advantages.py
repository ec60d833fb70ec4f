"""Advantages: numbers worked by hand, the float trap, ungraded rows, and what no order or label may change."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from rekindle.core.advantages import BatchWhitened, GroupNormalized, LeaveOneOut
from rekindle.core.groups import group_sum
from tests.batches import assert_alive, hand_batch, make_batch, make_now, pad, poisoned

PARTS = [
    GroupNormalized(),
    GroupNormalized(std="population"),
    GroupNormalized(std="none"),
    LeaveOneOut(),
    BatchWhitened(),
    BatchWhitened(ddof=1),
    BatchWhitened(advantage=LeaveOneOut()),
]
parts = pytest.mark.parametrize("part", PARTS, ids=str)


def rows(part, score: list[float], lengths: list[int] | None = None) -> list[float]:
    return part(hand_batch(score, lengths))[:, 0].tolist()


@pytest.mark.parametrize(
    ("part", "winner", "loser"),
    [
        (GroupNormalized(), 1.499997, -0.499999),
        (GroupNormalized(eps=1e-4), 1.4997, -0.4999),
        (GroupNormalized(std="population"), 1.732047, -0.577349),
        (GroupNormalized(std="none"), 0.75, -0.25),
        (LeaveOneOut(), 1.0, -1 / 3),
        (BatchWhitened(ddof=1), 1.897367, -0.474342),
        (BatchWhitened(), 2.0, -0.5),
    ],
    ids=str,
)
def test_one_winner_in_four(part, winner: float, loser: float) -> None:
    abs_ = 5e-5 if part == GroupNormalized(eps=1e-4) else 1e-6
    assert rows(part, [1, 0, 0, 0], [2, 4, 3, 1]) == pytest.approx([winner, loser, loser, loser], abs=abs_)


def test_almost_homogeneous_groups() -> None:
    assert rows(GroupNormalized(), [1] + [0] * 7)[0] == pytest.approx(2.475, abs=1e-3)
    assert rows(GroupNormalized(std="none"), [1] + [0] * 7)[0] == pytest.approx(0.875)
    mixed = rows(GroupNormalized(), [1, 1] + [0] * 6)
    assert (mixed[0], mixed[7]) == pytest.approx((1.620, -0.540), abs=1e-3)


def test_evol_rl_bands() -> None:
    score = [0.840909, 0.5, 0.522727, 1, -0.75, -0.75, -1]
    want = [0.928030, 0.527029, 0.553763, 1.115163, -0.943306, -0.943306, -1.237373]
    assert rows(GroupNormalized(), score) == pytest.approx(want, abs=2e-6)
    assert rows(GroupNormalized(), [1] * 4 + [0] * 3) == pytest.approx([0.801782] * 4 + [-1.069043] * 3, abs=3e-6)


@pytest.mark.parametrize("value", [0.7, 0.1, 0.0, 1.0, 1e6])
@parts
def test_constant_float32_scores_give_exactly_zero(part, value: float) -> None:
    advantage = part(hand_batch([value] * 16, dtype=torch.float32))
    assert advantage.dtype == torch.float32 and (advantage == 0).all()


def test_the_float_trap_is_real() -> None:
    score = torch.full((16,), 0.7)
    naive = (score - score.mean()) / (score.std() + 1e-6)
    assert naive.abs().max() > 0.05


@parts
def test_every_token_of_a_row_and_nothing_else(part) -> None:
    batch = make_batch(ungraded=True, shaped=True)
    assert_alive(batch)
    advantage = part(batch)
    assert (advantage[~batch.live] == 0).all()
    first = advantage.gather(1, batch.mask.long().argmax(dim=1, keepdim=True))
    assert torch.equal(advantage, first.expand_as(advantage).where(batch.live, 0.0))


@parts
def test_an_ungraded_row_is_in_no_statistic(part) -> None:
    batch = make_batch(ungraded=True, shaped=True)
    rest = batch.graded.nonzero()[:, 0]
    want = part(batch.take(rest))
    assert want.abs().sum() > 0
    torch.testing.assert_close(part(batch)[rest], want, rtol=0, atol=1e-12)
    dirty, _ = poisoned(batch, make_now(batch))
    assert not dirty.score.isfinite().all()
    assert torch.equal(part(dirty), part(batch))


@parts
def test_row_order_padding_and_group_names_are_invisible(part) -> None:
    batch = make_batch(shaped=True)
    assert_alive(batch)
    want = part(batch)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(part(batch.take(order)), want[order], rtol=0, atol=1e-12)
    wide = part(pad(batch, make_now(batch))[0])
    torch.testing.assert_close(wide[:, : want.shape[1]], want, rtol=0, atol=1e-12)
    assert (wide[:, want.shape[1] :] == 0).all()
    torch.testing.assert_close(part(replace(batch, group=5000 - 11 * batch.group)), want, rtol=0, atol=1e-12)


@parts
@pytest.mark.parametrize("score", [[1.0], [1.0, 1.0, 1.0], [0.0, 0.0]])
def test_nothing_to_compare_is_zero(part, score: list[float]) -> None:
    assert (part(hand_batch(score)) == 0).all()
    assert (part(hand_batch([*score, 5.0], graded=[True] * len(score) + [False])) == 0).all()


@parts
def test_empty_mask_is_zero(part) -> None:
    batch = make_batch()
    assert (part(replace(batch, mask=torch.zeros_like(batch.mask))) == 0).all()


@pytest.mark.parametrize("part", PARTS[:4], ids=str)
def test_advantages_of_a_group_sum_to_zero(part) -> None:
    batch = make_batch(shaped=True)
    row = part(batch)[:, 0]
    assert row.abs().max() > 0.1
    assert group_sum(row, batch.group, batch.graded).abs().max() < 1e-12


def test_rloo_is_dr_grpo_times_g_over_g_minus_one() -> None:
    batch = make_batch(shaped=True)
    size = (batch.group[:, None] == batch.group).sum(dim=1, keepdim=True)
    torch.testing.assert_close(LeaveOneOut()(batch), GroupNormalized(std="none")(batch) * size / (size - 1))


def test_whitened_over_tokens_not_rows() -> None:
    batch = make_batch(shaped=True)
    live = BatchWhitened(ddof=1, eps=0.0)(batch)[batch.live]
    assert live.mean().item() == pytest.approx(0, abs=1e-12) and live.var().item() == pytest.approx(1)


@parts
def test_a_score_that_is_no_number_is_refused(part) -> None:
    with pytest.raises(ValueError, match=r"graded rows \[1\].*not graded"):
        part(hand_batch([1.0, float("nan"), 0.0]))


@parts
def test_parts_are_values(part) -> None:
    assert pickle.loads(pickle.dumps(part)) == part
