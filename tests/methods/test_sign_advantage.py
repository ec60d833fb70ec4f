"""Sign advantage: plus one, minus one, nothing for what is not graded."""

from __future__ import annotations

import pytest
import torch

from rekindle.methods import grpo, sign_advantage
from tests.batches import hand_batch, make_batch

METHOD = sign_advantage.method()


def test_right_is_plus_one_wrong_is_minus_one() -> None:
    batch = METHOD.credit(hand_batch([1.0, 0.0, 0.25, 0.0], [2, 1, 1, 1], graded=[True, True, True, False]))
    assert batch.advantage.tolist() == [[1.0, 1.0], [-1.0, 0.0], [-0.5, 0.0], [0.0, 0.0]]


def test_no_group_is_compared() -> None:
    batch = make_batch(shaped=True)
    alone = hand_batch(batch.score.tolist(), group=list(range(len(batch))))
    together = hand_batch(batch.score.tolist())
    assert torch.equal(METHOD.credit(alone).advantage, METHOD.credit(together).advantage)
    for score in (0.0, 1.0):
        assert (METHOD.credit(hand_batch([score] * 4)).advantage == 2 * score - 1).all(), "unanimous, and not silent"


def test_a_group_half_right_differs_from_grpo_by_its_std() -> None:
    batch = hand_batch([1.0, 0.0, 1.0, 0.0])
    ratio = METHOD.credit(batch).advantage / grpo.method().credit(batch).advantage
    std = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64).std().item()
    assert ratio.flatten().tolist() == pytest.approx([2 * (std + 1e-6)] * 4, rel=1e-12)
