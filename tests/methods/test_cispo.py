"""CISPO: the table of gradients, no token that falls silent, REINFORCE at closed bounds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rekindle.core.types import Batch, Now
from rekindle.methods import cispo, gpg, grpo
from rekindle.methods.cispo import CappedWeight
from tests.batches import hand_batch, make_batch, make_now
from tests.methods.made import group_rollouts
from tests.methods.stage import collected, on_leaves

METHOD = cispo.method()


def moved(ratios: list[float], advantage: float) -> tuple[Batch, Now]:
    """One row at these ratios; old log-probs are -1."""
    old = torch.full((1, len(ratios)), -1.0, dtype=torch.float64)
    batch = hand_batch([1.0], [len(ratios)], logp_old=old, advantage=torch.full_like(old, advantage))
    return batch, Now(logp=(old + torch.tensor(ratios).log()).requires_grad_(), entropy=torch.zeros_like(old))


def slopes(objective: CappedWeight, ratios: list[float], advantage: float = 1.0) -> list[float]:
    """d loss / d logp of each token."""
    batch, now = moved(ratios, advantage)
    return torch.autograd.grad(objective(now, batch)[0].sum(), now.logp)[0][0].tolist()


def test_gradients_on_paper() -> None:
    ratios = [0.7, 1.25, 1.5]
    assert slopes(CappedWeight(low=0.8, high=1.28), ratios) == pytest.approx([-0.8, -1.25, -1.28]), "verl, .2/.28"
    assert slopes(CappedWeight(), ratios) == pytest.approx([-0.7, -1.25, -1.5]), "TRL, a cap of 5"
    assert slopes(CappedWeight(), [4.0, 9.0], -1.0) == pytest.approx([4.0, 5.0])


def test_values_are_weighted_log_probs_and_metrics_count_the_capped() -> None:
    batch, now = moved([0.7, 6.0], 1.0)
    loss, metrics = CappedWeight()(now, batch)
    assert loss[0].tolist() == pytest.approx((-torch.tensor([0.7, 5.0]) * now.logp.detach()[0]).tolist())
    assert metrics["clip_high"] == (1.0, 2.0) and metrics["clip_low"] == (0.0, 2.0)


def test_no_token_with_an_advantage_loses_its_gradient() -> None:
    batch = make_batch()
    now = make_now(batch, spread=3.0)
    _, ours, _ = on_leaves(METHOD, batch, now)
    _, clipped, _ = on_leaves(grpo.method(), batch, now)
    counts = batch.live & (batch.advantage != 0)
    assert torch.equal(ours != 0, counts) and ((clipped == 0) & counts).any()


@pytest.mark.parametrize(("low", "high"), [(0.0, 5.0), (0.8, 1.28)])
def test_the_loss_by_a_slow_loop(low: float, high: float) -> None:
    batch = make_batch(ungraded=True)
    now = make_now(batch, spread=1.0)
    method = METHOD.replace(objective=CappedWeight(low=low, high=high))
    total: list[Tensor] = []
    for i, t in batch.live.nonzero().tolist():
        ratio = (now.logp[i, t] - batch.logp_old[i, t]).exp().item()
        total.append(-min(max(ratio, low), high) * batch.advantage[i, t] * now.logp[i, t])
    assert on_leaves(method, batch, now)[0] == pytest.approx(torch.stack(total).mean().item(), rel=1e-12)


def test_closed_bounds_are_the_plain_policy_gradient() -> None:
    stage, batch = collected(METHOD, group_rollouts(5))
    now = stage.policy(batch).detach()
    neutral = METHOD.replace(objective=CappedWeight(low=1.0, high=1.0))
    plain = METHOD.replace(objective=gpg.Likelihood())
    got, want = on_leaves(neutral, batch, now), on_leaves(plain, batch, now)
    assert got[0] == pytest.approx(want[0], rel=1e-12) and (want[1] != 0).any()
    torch.testing.assert_close(got[1], want[1], rtol=1e-12, atol=0)


def test_on_policy_the_gradient_is_grpos() -> None:
    batch = make_batch()
    here = Now(logp=batch.logp_old, entropy=torch.zeros_like(batch.logp_old))
    torch.testing.assert_close(
        on_leaves(METHOD, batch, here)[1], on_leaves(grpo.method(), batch, here)[1], rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(("low", "high"), [(-0.1, 5.0), (1.1, 5.0), (0.0, 0.2), (0.0, float("inf"))])
def test_bounds_that_are_no_ratios_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="ratios around 1"):
        CappedWeight(low=low, high=high)
