"""GRPO on paper: advantages, the loss and its gradient, and what gives exactly nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rekindle.core.types import Batch, Now
from rekindle.methods import grpo
from tests.batches import hand_batch
from tests.methods.stage import on_leaves

METHOD = grpo.method()


def scored(score: list[float], lengths: list[int], dtype: torch.dtype = torch.float64) -> tuple[Batch, Now]:
    """A credited batch at the weights that sampled it."""
    batch = hand_batch(score, lengths, dtype=dtype)
    old = (-torch.ones(batch.mask.shape, dtype=dtype)).where(batch.mask, 0.0)
    return METHOD.credit(batch.with_columns(logp_old=old)), Now(logp=old, entropy=torch.zeros_like(old))


def test_one_right_answer_in_four() -> None:
    batch, now = scored([1.0, 0.0, 0.0, 0.0], [2, 4, 3, 1])
    high, low = 0.75 / (0.5 + 1e-6), -0.25 / (0.5 + 1e-6)
    assert high == pytest.approx(1.499997, abs=5e-7) and low == pytest.approx(-0.499999, abs=5e-7)
    want = torch.tensor([high, low, low, low], dtype=torch.float64)[:, None].where(batch.mask, 0.0)
    torch.testing.assert_close(batch.advantage, want, rtol=1e-12, atol=0)
    loss, grad, _ = on_leaves(METHOD, batch, now)
    assert loss == pytest.approx(-(2 * high + 8 * low) / 10, rel=1e-12), "the mean over the ten tokens"
    torch.testing.assert_close(grad, -want / 10, rtol=1e-12, atol=0)


def test_clip_and_dual_clip_cut_the_gradient() -> None:
    batch, now = scored([1.0, 0.0], [4, 4])
    ratio = torch.tensor([0.7, 1.1, 1.25, 4.0], dtype=torch.float64)
    _, grad, _ = on_leaves(METHOD, batch, Now(logp=now.logp + ratio.log(), entropy=now.entropy))
    a = batch.advantage[0, 0].item()
    assert grad[0].tolist() == pytest.approx([-a * 0.7 / 8, -a * 1.1 / 8, 0.0, 0.0])
    assert grad[1].tolist() == pytest.approx([0.0, a * 1.1 / 8, a * 1.25 / 8, 0.0]), "beyond 3 the dual clip acts"


@pytest.mark.parametrize("value", [0.0, 0.1, 0.7, 1.0])
def test_equal_scores_give_exactly_nothing_in_single_precision(value: float) -> None:
    batch, now = scored([value] * 16, [3] * 16, torch.float32)
    loss, grad, _ = on_leaves(METHOD, batch, now)
    assert (batch.advantage == 0).all() and (grad == 0).all() and loss == 0


def test_a_group_of_one_gives_nothing() -> None:
    batch, now = scored([1.0], [3])
    assert (batch.advantage == 0).all() and (on_leaves(METHOD, batch, now)[1] == 0).all()


def test_advantages_of_a_group_cancel_over_rows_and_an_ungraded_row_is_nowhere() -> None:
    batch = hand_batch([1.0, 0.0, 1.0, 0.0, 0.0], graded=[True, True, True, True, False])
    with_it = METHOD.credit(batch).advantage
    without = METHOD.credit(batch.take(torch.arange(4))).advantage
    assert torch.equal(with_it[:4], without) and with_it[4].item() == 0.0
    assert with_it.sum().item() == pytest.approx(0.0, abs=1e-12)
    spoiled = replace(batch, score=batch.score.index_fill(0, torch.tensor([4]), float("nan")))
    assert torch.equal(METHOD.credit(spoiled).advantage, with_it)
