"""What each KL estimate teaches, by exact enumeration: as a loss, in the reward, and over responses of two tokens."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from rekindle.core.returns import KLInReward, ReturnToGo, WhitenTokens, last_live
from rekindle.core.terms import KLToReference, kl_estimate
from rekindle.core.types import Now
from tests.batches import hand_batch, make_batch, poisoned

REF = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()[:, None]
REVERSE, FORWARD = (-0.173181, -0.075571, 0.248752), (-0.162415, -0.049911, 0.212327)


def policy() -> tuple[Tensor, Tensor]:
    """(logits, log-probs of the three actions [3 1]): every row of the batch is one of the actions."""
    logits = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64, requires_grad=True)
    return logits, logits.log_softmax(0)[:, None]


def slope(logits: Tensor, loss: Tensor) -> list[float]:
    return torch.autograd.grad(loss, logits)[0].tolist()


def test_the_two_divergences_and_their_gradients() -> None:
    logits, logp = policy()
    reverse = (logp.exp() * (logp - REF)).sum()
    assert reverse.item() == pytest.approx(0.120209, abs=1e-6) and slope(logits, reverse) == pytest.approx(
        REVERSE, abs=1e-6
    )
    logits, logp = policy()
    forward = (REF.exp() * (REF - logp)).sum()
    assert forward.item() == pytest.approx(0.106286, abs=1e-6) and slope(logits, forward) == pytest.approx(
        FORWARD, abs=1e-6
    )


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [("k1", 0.120209, (0.0, 0.0, 0.0)), ("k2", 0.138099, REVERSE), ("k3", 0.120209, FORWARD)],
)
def test_as_a_loss_k1_teaches_nothing_k2_the_reverse_and_k3_the_forward_kl(estimator, value, gradient) -> None:
    logits, logp = policy()
    batch = hand_batch([0.0] * 3, logp_ref=REF)
    per_token, _ = KLToReference(coef=1.0, estimator=estimator).per_token(Now(logp=logp, entropy=logp * 0), batch)
    loss = (logp.detach().exp() * per_token).sum()
    assert loss.item() == pytest.approx(value, abs=1e-6)
    assert slope(logits, loss) == pytest.approx(gradient, abs=1e-6)


def test_k3_times_the_ratio_is_the_reverse_kl_again() -> None:
    logits, logp = policy()
    ratio = (logp - logp.detach()).exp()
    loss = (logp.detach().exp() * ratio * kl_estimate(REF - logp, "k3")).sum()
    assert slope(logits, loss) == pytest.approx(REVERSE, abs=1e-6)


@pytest.mark.parametrize(("estimator", "reverse"), [("k1", True), ("k2", False), ("k3", False)])
def test_in_the_reward_only_k1_gives_the_reverse_kl(estimator, reverse: bool) -> None:
    logits, logp = policy()
    part = KLInReward(coef=1.0, estimator=estimator)
    batch = part(hand_batch([0.0] * 3, logp_ref=REF, logp_old=logp.detach()))
    loss = (logp.detach().exp() * -ReturnToGo()(batch) * logp).sum()
    assert (slope(logits, loss) == pytest.approx(REVERSE, abs=1e-6)) is reverse


def test_over_responses_returns_to_go_of_k1_are_the_reverse_kl_of_the_whole_response() -> None:
    first = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64, requires_grad=True)
    then = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    pairs = torch.tensor(list(product(range(3), repeat=2)))
    logp = torch.stack([first.log_softmax(0)[pairs[:, 0]], then.log_softmax(1)[pairs[:, 0], pairs[:, 1]]], dim=1)
    ref = REF[pairs[:, 0]].expand(9, 2) + torch.tensor([0.0, 0.3])
    chance = logp.sum(1).exp()
    want = torch.autograd.grad((chance * (logp - ref).sum(1)).sum(), [first, then], retain_graph=True)
    batch = KLInReward(coef=0.7)(hand_batch([0.0] * 9, [2] * 9, logp_old=logp.detach(), logp_ref=ref))
    loss = (chance.detach()[:, None] * -ReturnToGo()(batch) * logp).sum()
    got = torch.autograd.grad(loss, [first, then])
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, 0.7 * theirs, rtol=1e-12, atol=1e-15)


def test_rewards_and_returns_by_a_slow_loop() -> None:
    batch = make_batch(ungraded=True, shaped=True)
    done = KLInReward(coef=0.3, estimator="k3")(batch)
    got = ReturnToGo()(done)
    x = batch.column("logp_ref") - batch.logp_old
    for i in range(len(batch)):
        spots = batch.live[i].nonzero()[:, 0].tolist()
        rewards = [-0.3 * min((x[i, t].exp() - x[i, t] - 1).item(), 10.0) for t in spots]
        if rewards:
            rewards[-1] += batch.score[i].item()
        want = {t: sum(rewards[k:]) for k, t in enumerate(spots)}
        assert got[i].tolist() == pytest.approx([want.get(t, 0.0) for t in range(batch.mask.shape[1])], abs=1e-12)


def test_what_is_off_live_positions_never_counts() -> None:
    batch = make_batch(ungraded=True)
    now = Now(logp=batch.logp_old, entropy=batch.logp_old)
    dirty = poisoned(batch, now)[0]
    part, whiten = KLInReward(coef=0.3), WhitenTokens()
    clean, other = (whiten(ReturnToGo()(part(b)), b) for b in (batch, dirty))
    assert torch.equal(clean, other) and (clean[~batch.live] == 0).all() and (clean != 0).any()
    assert clean[batch.live].mean().item() == pytest.approx(0, abs=1e-12)
    assert clean[batch.live].var(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_the_last_live_position_of_each_row() -> None:
    live = torch.tensor([[True, False, True, False], [False] * 4, [True] * 4])
    assert last_live(live).nonzero().tolist() == [[0, 2], [2, 3]]
