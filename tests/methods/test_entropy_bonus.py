"""The entropy bonus: its value, its gradient, and GRPO at coefficient 0."""

from __future__ import annotations

import pytest
import torch

from rekindle.core.terms import EntropyBonus
from rekindle.core.types import Now
from rekindle.methods import entropy_bonus, grpo
from tests.batches import make_batch, make_now
from tests.methods.stage import on_leaves

METHOD = entropy_bonus.method()


def test_the_bonus_is_the_mean_entropy_times_the_coefficient() -> None:
    batch = make_batch(ungraded=True)
    now = make_now(batch)
    ours, theirs = on_leaves(METHOD, batch, now), on_leaves(grpo.method(), batch, now)
    mean = now.entropy[batch.live].mean().item()
    assert ours[0] - theirs[0] == pytest.approx(-0.001 * mean, abs=1e-14)
    want = torch.where(batch.live, -0.001 / batch.live.sum(), 0.0)
    torch.testing.assert_close(ours[2], want.double(), rtol=1e-6, atol=0)
    assert torch.equal(ours[1], theirs[1])


def test_coefficient_zero_is_grpo() -> None:
    neutral = METHOD.replace(terms=(EntropyBonus(coef=0.0),))
    batch = make_batch()
    now: Now = make_now(batch)
    got, want = on_leaves(neutral, batch, now), on_leaves(grpo.method(), batch, now)
    assert got[0] == want[0] and torch.equal(got[1], want[1]) and (got[2] == 0).all() and (want[1] != 0).any()
