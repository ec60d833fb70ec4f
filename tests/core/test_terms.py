"""Terms: the KL gradients on a three-way softmax, the clamps, and the entropy bonus."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

from rekindle.core.aggregate import SequenceMean, TokenMean
from rekindle.core.schedules import Linear
from rekindle.core.terms import EntropyBonus, KLToReference, kl_estimate
from rekindle.core.types import LOGP_REF, Now
from tests.batches import assert_alive, hand_batch, make_batch, make_now, poisoned

REF = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()


def expected_term(estimator) -> tuple[float, list[float]]:
    """(sum over actions of pi * estimate, its gradient on the logits with pi held): the exact on-policy expectation."""
    logits = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64, requires_grad=True)
    logp = logits.log_softmax(0)[:, None]
    batch = hand_batch([1.0, 0.0, 0.0], logp_ref=REF[:, None])
    per_token, _ = KLToReference(coef=1.0, estimator=estimator).per_token(Now(logp=logp, entropy=logp * 0), batch)
    loss = (logp.detach().exp() * per_token).sum()
    return loss.item(), torch.autograd.grad(loss, logits)[0].tolist()


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [
        ("k1", 0.120209, (0.0, 0.0, 0.0)),
        ("k2", 0.138099, (-0.173181, -0.075571, 0.248752)),
        ("k3", 0.120209, (-0.162415, -0.049911, 0.212327)),
    ],
)
def test_kl_on_a_three_way_softmax(estimator, value: float, gradient: tuple[float, ...]) -> None:
    got, grad = expected_term(estimator)
    assert got == pytest.approx(value, abs=1e-6)
    assert grad == pytest.approx(gradient, abs=1e-6)


@pytest.mark.parametrize(("estimator", "want"), [("k1", -0.1333), ("k2", 0.05), ("k3", 0.0575)])
def test_kl_means(estimator, want: float) -> None:
    logp, ref = torch.tensor([[-1.0, -0.5, -2.0]]).double(), torch.tensor([[-1.2, -0.4, -1.5]]).double()
    term, batch = KLToReference(coef=0.5, estimator=estimator), hand_batch([1.0], [3], logp_ref=ref)
    per_token, metrics = term.per_token(Now(logp=logp, entropy=logp * 0), batch)
    assert (term.weights(batch) * per_token).sum().item() == pytest.approx(0.5 * want, abs=5e-5)
    assert metrics["kl_ref"] == pytest.approx((3 * want, 3), abs=2e-4)


def test_the_value_of_k3_is_clamped_and_so_is_x() -> None:
    x = torch.tensor([2.0, 3.0, 50.0, -9.0, -15.0, -50.0], dtype=torch.float64, requires_grad=True)
    k3 = kl_estimate(x, "k3")
    assert k3.tolist() == pytest.approx([math.e**2 - 3, 10, 10, 8 + math.exp(-9), 10, 10])
    k3.sum().backward()
    assert x.grad is not None and x.grad.tolist() == pytest.approx([math.e**2 - 1, 0, 0, math.exp(-9) - 1, 0, 0])
    assert kl_estimate(x, "k1").tolist() == [-2, -3, -20, 9, 15, 20]
    assert kl_estimate(x, "k2").tolist() == [2, 4.5, 200, 40.5, 112.5, 200]


def test_entropy_bonus_rewards_entropy() -> None:
    batch = make_batch(ungraded=True)
    assert_alive(batch)
    now = make_now(batch)
    term = EntropyBonus(coef=0.003)
    loss = (term.weights(batch) * term.per_token(now, batch)[0]).sum()
    assert loss.item() == pytest.approx(-0.003 * now.entropy[batch.live].mean().item(), rel=1e-12)
    loss.backward()
    assert now.entropy.grad is not None and (now.entropy.grad[batch.live] < 0).all()
    assert (now.entropy.grad[~batch.live] == 0).all() and now.logp.grad is None


@pytest.mark.parametrize("term", [EntropyBonus(0.1), *(KLToReference(0.1, k) for k in ("k1", "k2", "k3"))], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nothing_off_live_positions_matters(term, bad: float) -> None:
    batch = make_batch(ungraded=True)
    now = make_now(batch)
    dirty, dirty_now = poisoned(batch, now, bad)
    losses = []
    for b, n in ((batch, now), (dirty, dirty_now)):
        loss = (term.weights(b) * term.per_token(n, b)[0]).sum()
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == losses[1] != 0
    for clean, unclean in ((now.logp, dirty_now.logp), (now.entropy, dirty_now.entropy)):
        assert (clean.grad is None) == (unclean.grad is None)
        assert clean.grad is None or torch.equal(clean.grad, unclean.grad)


def test_what_a_term_asks_for_and_how_it_averages() -> None:
    assert KLToReference(0.1).needs == (LOGP_REF,) and EntropyBonus(0.1).needs == ()
    batch = make_batch()
    assert torch.equal(EntropyBonus(0.1, SequenceMean()).weights(batch), SequenceMean()(batch, batch.live))
    assert EntropyBonus(0.1).aggregate == TokenMean()


def test_a_schedule_must_be_resolved_first() -> None:
    batch = make_batch()
    with pytest.raises(TypeError, match="call resolve"):
        EntropyBonus(Linear(0.1, 0.0)).per_token(make_now(batch), batch)


@pytest.mark.parametrize("term", [EntropyBonus(Linear(0.1, 0.0)), KLToReference(0.1, "k2", SequenceMean())], ids=str)
def test_terms_are_values(term) -> None:
    assert pickle.loads(pickle.dumps(term)) == term
