"""RL-ZVP: the source's numbers for groups without variance, GRPO elsewhere, and a slow loop over rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rekindle.core.types import Batch
from rekindle.methods import grpo, rl_zvp
from rekindle.methods.rl_zvp import ZeroVariance
from tests.batches import hand_batch, make_batch

METHOD = rl_zvp.method()
H = torch.tensor([[0.05, 1.2, 0.3, 0.0]], dtype=torch.float64)


def slow(batch: Batch, alpha: float) -> Tensor:
    out = grpo.method().advantage(batch)
    for group in batch.group.unique():
        rows = ((batch.group == group) & batch.graded).nonzero()[:, 0].tolist()
        won = {bool(batch.success[i]) for i in rows}
        if len(won) != 1 or len({batch.score[i].item() for i in rows}) != 1:
            continue
        for i in rows:
            spots = batch.live[i].nonzero()[:, 0].tolist()
            heat = {t: batch.column("entropy_old")[i, t].item() for t in spots}
            for t in spots:
                out[i, t] = alpha * heat[t] if won == {True} else -alpha * (max(heat.values()) - heat[t])
    return out


def test_numbers_of_the_sheet() -> None:
    right = METHOD.credit(hand_batch([1.0, 1.0], [4, 4], entropy_old=H.expand(2, 4)))
    assert right.advantage[1].tolist() == pytest.approx([0.005, 0.12, 0.03, 0.0], abs=1e-15)
    wrong = METHOD.credit(hand_batch([0.0, 0.0], [4, 4], entropy_old=H.expand(2, 4)))
    assert wrong.advantage[0].tolist() == pytest.approx([-0.115, 0.0, -0.09, -0.12], abs=1e-15)
    assert wrong.advantage[0, 1].item() == 0, "exactly 0 at the most uncertain token, below it elsewhere"


def test_mixed_groups_are_grpos_and_so_is_alpha_zero() -> None:
    batch = make_batch(ungraded=True, shaped=True)
    assert torch.equal(METHOD.credit(batch).advantage, grpo.method().credit(batch).advantage)
    for won in (True, False):
        alike = torch.full_like(batch.score, float(won))
        flat = replace(batch, success=torch.full_like(batch.success, won) & batch.graded, score=alike)
        none = METHOD.replace(advantage=ZeroVariance(alpha=0.0)).credit(flat)
        assert torch.equal(none.advantage.abs(), grpo.method().credit(flat).advantage.abs())
        assert (METHOD.credit(flat).advantage != 0).any()


def test_rows_are_those_of_the_slow_loop() -> None:
    batch = make_batch(20, ungraded=True)
    kinds = batch.group.unique()[:2]
    success = (batch.success | (batch.group == kinds[0])) & (batch.group != kinds[1]) & batch.graded
    batch = replace(batch, success=success, score=success.double())
    got = ZeroVariance(alpha=0.2)(batch)
    torch.testing.assert_close(got, slow(batch, 0.2), rtol=0, atol=1e-15)
    grpos = grpo.method().advantage(batch)
    assert (got != grpos).any() and (got[batch.group == kinds[1]] <= 0).all()


def test_a_length_penalty_that_tells_right_answers_apart_is_left_to_grpo() -> None:
    batch = hand_batch([1.0, 0.7], [4, 4], entropy_old=H.expand(2, 4))
    assert batch.success.all()
    assert torch.equal(METHOD.credit(batch).advantage, grpo.method().credit(batch).advantage)


def test_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        ZeroVariance(alpha=-0.1)
    assert ZeroVariance.positive_signal, (
        "unanimous groups may be unanimously wrong: off in label-free runs unless asked"
    )
