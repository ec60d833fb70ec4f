"""KL-Cov: worked numbers, the unclipped surrogate where its penalty is off, who is selected, a slow-loop oracle."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rekindle.core.types import Batch, Now
from rekindle.methods import grpo, kl_cov
from rekindle.methods.kl_cov import KLCov, centred_product
from rekindle.tokens.rollouts import Rollouts
from tests.batches import hand_batch, make_batch, make_now, poisoned
from tests.methods.made import group_rollouts
from tests.methods.stage import collected, on_leaves

METHOD = kl_cov.method()
PROBS = [0.9, 0.8, 0.05, 0.5, 0.02, 0.95]
MOVED = [0.1, 0.0, 0.0, 0.0, -0.2, 0.0]


def hand() -> tuple[Batch, Now]:
    """Six tokens in one row."""
    logp = torch.tensor([PROBS], dtype=torch.float64).log()
    advantage = torch.tensor([[1.0, 1, 1, -1, -1, -1]], dtype=torch.float64)
    batch = hand_batch([1.0], [6], logp_old=logp - torch.tensor([MOVED], dtype=torch.float64), advantage=advantage)
    return batch, Now(logp=logp, entropy=torch.zeros_like(logp))


def with_share(share: float, beta: float = 1.0):
    return METHOD.replace(objective=KLCov(share=share, beta=beta))


def test_hand_example() -> None:
    batch, now = hand()
    product, pool = centred_product(now, batch)
    assert pool.all() and now.logp.mean().item() == pytest.approx(-1.33012, abs=1e-5)
    want = [1.22476, 1.10697, -1.66562, -0.63697, 2.58191, -1.27882]
    assert product[0].tolist() == pytest.approx(want, abs=1e-5)
    loss, grad, _ = on_leaves(with_share(2 / 6), batch, now)
    assert loss == pytest.approx(0.00225997, abs=1e-8)
    assert (6 * grad[0]).tolist() == pytest.approx([-0.10517, -1, -1, 1, -0.18127, 1], abs=1e-5)


def test_first_order_entropy_change() -> None:
    """Minus eta times the covariance, for the vanilla and for the natural gradient of a softmax."""
    z = torch.tensor([1.0, 0.5, 0, -0.5, -1], dtype=torch.float64)
    pi, eta = torch.softmax(z, 0), 1e-3
    raw = torch.tensor([1.0, -1, 0.5, 0, -0.5], dtype=torch.float64)
    centred = raw - (pi * raw).sum()

    def entropy(logits: Tensor) -> Tensor:
        logp = torch.log_softmax(logits, 0)
        return -(logp.exp() * logp).sum()

    def covariance(x: Tensor, y: Tensor) -> Tensor:
        return (pi * (x - (pi * x).sum()) * (y - (pi * y).sum())).sum()

    for step, change, predicted in ((pi * centred, -7.69792e-5, -7.69352e-5), (raw, -2.29124e-4, -2.28723e-4)):
        assert (entropy(z + eta * step) - entropy(z)).item() == pytest.approx(change, rel=1e-5)
        assert -eta * covariance(pi.log(), step).item() == pytest.approx(predicted, rel=1e-5)


def oracle(batch: Batch, now: Now, share: float, beta: float) -> tuple[float, Tensor]:
    """The loss and its gradient by loops over tokens."""
    spots = [(i, t) for i, t in batch.live.nonzero().tolist()]
    taught = [(i, t) for i, t in spots if batch.advantage[i, t] != 0]
    mean_a = sum(batch.advantage[s].item() for s in taught) / len(taught)
    mean_l = sum(now.logp[s].item() for s in taught) / len(taught)
    product = {s: (batch.advantage[s].item() - mean_a) * (now.logp[s].item() - mean_l) for s in taught}
    order = sorted(taught, key=lambda s: (-product[s], int(batch.uid[s[0]]), s[1]))
    chosen = set(order[: max(int(share * len(taught) + 1e-9), 1)] if share else [])
    total, grad = 0.0, torch.zeros_like(now.logp)
    for s in spots:
        moved = now.logp[s].item() - batch.logp_old[s].item()
        ratio, a = math.exp(moved), batch.advantage[s].item()
        total += (-a * ratio + (beta * abs(moved) if s in chosen else 0.0)) / len(spots)
        sign = (moved > 0) - (moved < 0) if s in chosen else 0
        grad[s] = (-a * ratio + beta * sign) / len(spots)
    return total, grad


@pytest.mark.parametrize("share", [0.0, 1e-6, 0.02, 0.2, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_against_slow_loops(share: float, seed: int) -> None:
    batch = make_batch(B=10, T=7, seed=seed, ungraded=True)
    now = make_now(batch, seed + 5, requires_grad=False)
    loss, grad, _ = on_leaves(with_share(share, 0.7), batch, now)
    want, slow = oracle(batch, now, share, 0.7)
    assert loss == pytest.approx(want, rel=1e-10)
    torch.testing.assert_close(grad, slow, rtol=1e-10, atol=1e-14)


def unclipped(batch: Batch, now: Now) -> tuple[float, Tensor]:
    """The surrogate -A r, token mean."""
    leaf = now.logp.detach().requires_grad_()
    ratio = (leaf - batch.logp_old).where(batch.live, 0.0).exp()
    loss = (-batch.advantage * ratio).where(batch.live, 0.0).sum() / batch.live.sum()
    return loss.item(), torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("neutral", [with_share(0.2, 0.0), with_share(0.0)])
def test_without_penalty_it_is_the_unclipped_surrogate(neutral) -> None:
    rollouts = Rollouts.concat([group_rollouts(g) for g in (2, 5, 6)])
    (stage, ours), (_, theirs) = collected(neutral, rollouts), collected(grpo.method(), rollouts)
    assert torch.equal(ours.advantage, theirs.advantage)
    now = stage.policy(ours).detach()
    loss, grad, _ = on_leaves(neutral, ours, now)
    want, slow = unclipped(ours, now)
    assert loss == pytest.approx(want, abs=1e-12)
    torch.testing.assert_close(grad, slow, rtol=0, atol=1e-12)
    assert not torch.equal(on_leaves(with_share(0.5), ours, now)[1], grad)


def test_on_policy_it_is_the_unclipped_surrogate_whatever_beta() -> None:
    batch = make_batch()
    now = Now(logp=batch.logp_old, entropy=torch.zeros_like(batch.logp_old))
    got, want = on_leaves(with_share(0.5, 100.0), batch, now), on_leaves(with_share(0.5, 0.0), batch, now)
    assert got[0] == want[0] and torch.equal(got[1], want[1]) and (want[1] != 0).any()


def test_the_product_ignores_added_constants() -> None:
    batch = make_batch()
    now = make_now(batch, requires_grad=False)
    want, pool = centred_product(now, batch)
    more = batch.with_columns(advantage=(batch.advantage + 3).where(pool, 0.0))
    shifted = Now(logp=now.logp + 2, entropy=now.entropy)
    torch.testing.assert_close(centred_product(shifted, more)[0], want, rtol=0, atol=1e-12)


def test_selection_is_by_the_signed_product_and_unanimous_groups_do_not_shift_it() -> None:
    batch, now = hand()
    _, metrics = with_share(1 / 6).objective(now, batch)
    assert metrics["kl_cov"] == (pytest.approx(0.2), 1.0), "the rare token of the wrong answer"
    columns = {"logp_old": batch.logp_old.repeat(2, 1), "advantage": batch.advantage.repeat(2, 1)}
    dead = hand_batch([1.0, 0.0], [6, 6], group=[0, 1], **columns)
    dead.advantage[1] = 0
    both = Now(logp=torch.cat([now.logp, now.logp * 3]), entropy=torch.zeros(2, 6, dtype=torch.float64))
    assert torch.equal(centred_product(both, dead)[0][:1], centred_product(now, batch)[0])


def test_ties_go_to_the_lowest_uid() -> None:
    batch, now = hand()
    twice = batch.take(torch.tensor([0, 0]))
    said = Now(logp=now.logp.repeat(2, 1), entropy=torch.zeros(2, 6, dtype=torch.float64))
    for uid, row in (((3, 9), 0), ((9, 3), 1)):
        _, grad, _ = on_leaves(with_share(1 / 12), replace(twice, uid=torch.tensor(uid)), said)
        assert grad[row, 4].item() == pytest.approx((0.81873 - 1) / 12, abs=1e-6)
        assert grad[1 - row, 4].item() == pytest.approx(0.81873 / 12, abs=1e-6)


def test_extreme_ratios_and_dead_positions_are_finite() -> None:
    batch, now = hand()
    far = Now(logp=now.logp + torch.tensor([[500.0, -500, 0, 0, 0, 0]]), entropy=now.entropy)
    loss, grad, _ = on_leaves(with_share(1.0), batch, far)
    assert torch.tensor(loss).isfinite() and grad.isfinite().all()
    full = make_batch(ungraded=True)
    said = make_now(full)
    dirty = on_leaves(with_share(0.3), *poisoned(full, said))
    clean = on_leaves(with_share(0.3), full, said)
    assert dirty[0] == clean[0] and torch.equal(dirty[1], clean[1])


def test_bad_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="percents are divided by 100"):
        KLCov(share=20.0)
