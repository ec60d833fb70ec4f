"""SAPO: the table of gradients, the smooth gate, the unclipped ratio as tau falls to 0."""

from __future__ import annotations

import math

import pytest
import torch

from rekindle.core.aggregate import SequenceMean
from rekindle.core.ratios import token_ratio
from rekindle.core.types import Batch, Now
from rekindle.methods import grpo, sapo
from rekindle.methods.sapo import SoftGate
from tests.batches import hand_batch, make_batch, make_now
from tests.methods.stage import on_leaves

METHOD = sapo.method()


def moved(ratios: list[float], advantage: float) -> tuple[Batch, Now]:
    """One row at these ratios; old log-probs are -1."""
    old = torch.full((1, len(ratios)), -1.0, dtype=torch.float64)
    batch = hand_batch([1.0], [len(ratios)], logp_old=old, advantage=torch.full_like(old, advantage))
    now = old + torch.tensor(ratios, dtype=torch.float64).log()
    return batch, Now(logp=now.requires_grad_(), entropy=torch.zeros_like(old))


def slopes(ratios: list[float], advantage: float) -> list[float]:
    """d loss / d logp of each token."""
    batch, now = moved(ratios, advantage)
    return torch.autograd.grad(SoftGate()(now, batch)[0].sum(), now.logp)[0][0].tolist()


def test_gradients_on_paper() -> None:
    assert slopes([0.7, 1.25, 1.5], 1.0) == pytest.approx([-0.684483, -1.230670, -1.410022], abs=1e-6)
    assert slopes([0.7, 1.25, 1.5, 4.0], -1.0) == pytest.approx([0.682919, 1.228712, 1.401210, 0.630445], abs=1e-6)
    assert slopes([1.0], 1.0) == [-1.0] and slopes([1.0], -1.0) == pytest.approx([1.0], rel=1e-12)


def test_on_policy_the_value_is_two_over_tau() -> None:
    for advantage, tau in ((1.0, 1.0), (-1.0, 1.05)):
        batch, now = moved([1.0], advantage)
        assert SoftGate()(now, batch)[0].item() == pytest.approx(-advantage * 2 / tau, rel=1e-12)


def test_on_policy_the_gradient_is_grpos_with_the_same_mean() -> None:
    batch = make_batch()
    here = Now(logp=batch.logp_old, entropy=torch.zeros_like(batch.logp_old))
    other = grpo.method().replace(aggregate=SequenceMean())
    torch.testing.assert_close(
        on_leaves(METHOD, batch, here)[1], on_leaves(other, batch, here)[1], rtol=1e-12, atol=1e-15
    )


def test_the_gate_fades_and_never_shuts() -> None:
    up = [-s for s in slopes([1.0, 1.5, 2.0, 4.0, 8.0], 1.0)]
    weight = [s / r for s, r in zip(up, [1.0, 1.5, 2.0, 4.0, 8.0], strict=True)]
    assert weight == sorted(weight, reverse=True) and min(weight) > 0
    down = slopes([2.0, 4.0, 8.0], -1.0)
    assert all(d < u for d, u in zip(down, up[2:], strict=True)), "cooler where tokens are pushed down"


def test_the_loss_by_a_slow_loop() -> None:
    batch = make_batch(ungraded=True)
    now = make_now(batch, spread=1.0)
    rows = []
    for i in range(len(batch)):
        spots = batch.live[i].nonzero()[:, 0].tolist()
        values = []
        for t in spots:
            a, r = batch.advantage[i, t].item(), math.exp((now.logp[i, t] - batch.logp_old[i, t]).item())
            tau = 1.0 if a > 0 else 1.05
            values.append(-a * 4 / tau / (1 + math.exp(-tau * (r - 1))))
        rows += [sum(values) / len(values)] if values else []
    assert on_leaves(METHOD, batch, now)[0] == pytest.approx(sum(rows) / len(rows), rel=1e-12)


def test_a_tau_near_zero_is_the_unclipped_ratio() -> None:
    batch = make_batch()
    now = make_now(batch)
    _, got, _ = on_leaves(METHOD.replace(objective=SoftGate(tau_up=1e-5, tau_down=1e-5)), batch, now)
    want = -batch.advantage * token_ratio(now.detach(), batch) * METHOD.aggregate(batch, batch.live)
    torch.testing.assert_close(got, want.where(batch.live, 0.0), rtol=1e-8, atol=0)


@pytest.mark.parametrize("tau", [0.0, -1.0])
def test_a_tau_that_is_not_positive_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        SoftGate(tau_down=tau)
