"""Aggregates are weights: worked numbers, kept tokens only, defined on nothing."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from rekindle.core.aggregate import FixedLength, PromptMean, SequenceMean, TokenMean
from tests.batches import assert_alive, hand_batch, make_batch, make_now, pad

PARTS = [TokenMean(), SequenceMean(), PromptMean(), FixedLength(7)]
parts = pytest.mark.parametrize("part", PARTS, ids=str)
LOSS = torch.tensor([[4.0, 9.0, 9.0], [1.0, 1.0, 1.0]], dtype=torch.float64)


def kept_of(batch, seed: int = 5):
    kept = batch.live & (torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.7)
    kept[1] = False  # a live row that loses every token
    assert 0 < kept.sum() < batch.live.sum()
    return kept


@pytest.mark.parametrize(
    ("part", "group", "want"),
    [
        (TokenMean(), [0, 0], 1.75),
        (SequenceMean(), [0, 0], 2.5),
        (PromptMean(), [0, 0], 1.75),
        (PromptMean(), [0, 1], 2.5),
        (FixedLength(3), [0, 0], 7 / 6),
    ],
    ids=str,
)
def test_worked_rows(part, group: list[int], want: float) -> None:
    batch = hand_batch([1.0, 0.0], [1, 3], group)
    assert (part(batch, batch.live) * LOSS).sum().item() == pytest.approx(want)


def test_prompt_mean_with_three_rows() -> None:
    batch = hand_batch([1.0, 0.0, 0.0], [1, 3, 2], [8, 2, 8])
    weights = PromptMean()(batch, batch.live)
    assert weights[0, 0].item() == weights[2, 1].item() == pytest.approx(1 / 6)
    assert weights[1].tolist() == pytest.approx([1 / 6] * 3)


@parts
def test_weights_are_zero_off_kept_and_sum_to_one(part) -> None:
    batch = make_batch(ungraded=True)
    assert_alive(batch)
    kept = kept_of(batch)
    weights = part(batch, kept)
    assert weights.dtype == batch.score.dtype
    assert (weights[~kept] == 0).all() and (weights[kept] > 0).all()
    if not isinstance(part, FixedLength):
        assert weights.sum().item() == pytest.approx(1, abs=1e-12)


def test_fixed_length_counts_live_rows_not_kept_ones() -> None:
    batch = make_batch(ungraded=True)
    weights = FixedLength(7)(batch, kept_of(batch))
    assert weights.max().item() == pytest.approx(1 / (7 * (len(batch) - 1)))


@parts
def test_row_order_padding_and_group_names_are_invisible(part) -> None:
    batch = make_batch()
    kept = kept_of(batch)
    want = part(batch, kept)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(part(batch.take(order), kept[order]), want[order], rtol=0, atol=1e-15)
    wide = part(pad(batch, make_now(batch))[0], torch.nn.functional.pad(kept, (0, 3)))
    assert torch.equal(wide[:, : want.shape[1]], want) and (wide[:, want.shape[1] :] == 0).all()
    torch.testing.assert_close(part(replace(batch, group=5000 - batch.group), kept), want, rtol=0, atol=1e-15)


@parts
def test_nothing_kept_is_all_zero(part) -> None:
    batch = make_batch()
    assert (part(batch, torch.zeros_like(batch.mask)) == 0).all()
    dead = replace(batch, graded=torch.zeros_like(batch.graded))
    assert (part(dead, dead.live) == 0).all()


def test_equal_lengths_make_the_means_agree() -> None:
    batch = hand_batch([1.0, 0.0, 1.0, 0.0], [3] * 4, [0, 0, 1, 1])
    want = TokenMean()(batch, batch.live)
    for part in (SequenceMean(), PromptMean(), FixedLength(3)):
        torch.testing.assert_close(part(batch, batch.live), want)


def test_length_must_be_positive() -> None:
    with pytest.raises(ValueError, match="from 1 up, not 0"):
        FixedLength(0)


@parts
def test_parts_are_values(part) -> None:
    assert pickle.loads(pickle.dumps(part)) == part
