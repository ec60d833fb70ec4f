"""GPPO: the worked table, clip-higher's value and gradient at its two neutral settings, a literal form as oracle."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rekindle.core.method import PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.types import Batch, Now
from rekindle.methods import gppo, grpo
from rekindle.methods.gppo import GradientPreserving
from rekindle.tokens.rollouts import Rollouts
from tests.batches import hand_batch, make_batch, make_now, poisoned
from tests.methods.made import group_rollouts
from tests.methods.stage import collected, on_leaves

METHOD = gppo.method()
CLIP_HIGHER = grpo.method().replace(objective=Clip(low=0.8, high=1.28, dual=10.0))


def with_betas(low: float, high: float) -> PolicyGradient:
    return METHOD.replace(objective=GradientPreserving(beta_low=low, beta_high=high))


def one(advantage: float, ratio: float, dtype: torch.dtype = torch.float64) -> tuple[Batch, Now]:
    """One token."""
    logp = torch.tensor([[math.log(ratio)]], dtype=dtype)
    batch = hand_batch([1.0], dtype=dtype, logp_old=torch.zeros_like(logp), advantage=torch.full_like(logp, advantage))
    return batch, Now(logp=logp, entropy=torch.zeros_like(logp))


@pytest.mark.parametrize(
    ("advantage", "ratio", "ppo", "full", "quarter"),
    [
        (1, 0.5, (-0.5, -0.5), (-0.5, -0.5), (-0.5, -0.5)),
        (1, 1.5, (-1.28, 0), (-1.28, -1.28), (-1.28, -1.28)),
        (1, 12, (-1.28, 0), (-1.28, -1.28), (-1.28, -1.28)),
        (-1, 0.5, (0.8, 0), (0.8, 0.8), (0.2, 0.2)),
        (-1, 1.5, (1.5, 1.5), (1.5, 1.5), (1.5, 1.5)),
        (-1, 12, (10, 0), (10, 0), (10, 0)),
    ],
)
def test_table(advantage: float, ratio: float, ppo: tuple, full: tuple, quarter: tuple) -> None:
    batch, now = one(float(advantage), float(ratio))
    for method, want in ((CLIP_HIGHER, ppo), (METHOD, full), (with_betas(0.25, 1.0), quarter)):
        loss, grad, _ = on_leaves(method, batch, now)
        assert (loss, grad.item()) == pytest.approx(want, abs=1e-12)


def moved() -> tuple[Batch, Now, Batch]:
    """A collected batch of made-up rollouts at moved weights, credited by both methods."""
    rollouts = Rollouts.concat([group_rollouts(g) for g in (2, 5, 6)])
    (stage, ours), (_, theirs) = collected(METHOD, rollouts), collected(CLIP_HIGHER, rollouts)
    return ours, stage.policy(ours).detach(), theirs


def test_betas_of_one_have_clip_highers_value_and_betas_of_zero_its_gradient() -> None:
    ours, now, theirs = moved()
    want = on_leaves(CLIP_HIGHER, theirs, now)
    full, none = on_leaves(METHOD, ours, now), on_leaves(with_betas(0.0, 0.0), ours, now)
    assert full[0] == pytest.approx(want[0], abs=1e-12) and not torch.allclose(full[1], want[1])
    torch.testing.assert_close(none[1], want[1], rtol=0, atol=1e-12)
    assert abs(none[0] - want[0]) > 1e-3, "the clipped constants are dropped"
    inside = want[1] != 0
    torch.testing.assert_close(full[1][inside], want[1][inside], rtol=0, atol=1e-12)
    assert not torch.equal((full[1] != 0), inside)


def test_on_policy_it_is_grpo() -> None:
    batch = make_batch()
    now = Now(logp=batch.logp_old, entropy=torch.zeros_like(batch.logp_old))
    got, want = on_leaves(METHOD, batch, now), on_leaves(grpo.method(), batch, now)
    assert got[0] == pytest.approx(want[0], abs=1e-12)
    torch.testing.assert_close(got[1], want[1], rtol=0, atol=1e-12)


def literal(now: Tensor, batch: Batch, low: float, high: float) -> Tensor:
    """The paper's form with tensor-bound clamp."""
    ratio = (now - batch.logp_old).exp()
    fixed = ratio.detach()
    clamped = torch.minimum(torch.maximum(ratio, low / fixed * ratio), high / fixed * ratio)
    return -torch.minimum(ratio * batch.advantage, clamped * batch.advantage)


def test_against_the_papers_form() -> None:
    batch = make_batch(B=20, T=8, seed=3)
    leaf = make_now(batch, seed=4).logp
    loss = (literal(leaf, batch, 0.8, 1.28) * batch.live).sum() / batch.live.sum()
    got, grad, _ = on_leaves(METHOD, batch, Now(logp=leaf, entropy=torch.zeros_like(leaf)))
    assert got == pytest.approx(loss.item(), abs=1e-12)
    # A tie of the minimum splits the gradient among branches that have the same one.
    torch.testing.assert_close(grad, torch.autograd.grad(loss, leaf)[0].where(batch.live, 0.0), rtol=0, atol=1e-12)


def test_the_gradient_is_bounded() -> None:
    batch = make_batch(B=20, T=8, seed=3)
    now = make_now(batch, seed=4, spread=2.0)
    grad = on_leaves(METHOD, batch, now)[1] * batch.live.sum()
    factor, ratio = (grad / batch.advantage).abs(), (now.logp - batch.logp_old).exp()
    a, live = batch.advantage, batch.live & (batch.advantage != 0)
    high, low, beyond = live & (a > 0) & (ratio > 1.28), live & (a < 0) & (ratio < 0.8), live & (a < 0) & (ratio > 10)
    assert high.any() and low.any() and (factor[high] - 1.28).abs().max() < 1e-9
    assert (factor[low] - 0.8).abs().max() < 1e-9 and (grad[beyond] == 0).all()
    assert (factor[live] <= torch.maximum(ratio, torch.tensor(1.28).double())[live] + 1e-9).all()


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("log_ratio", [100.0, -100.0, 1e4])
def test_extreme_ratios_in_single_precision(advantage: float, log_ratio: float) -> None:
    batch, now = one(advantage, 1.0, torch.float32)
    far = Now(logp=now.logp + log_ratio, entropy=now.entropy)
    loss, grad, _ = on_leaves(METHOD, batch, far)
    assert math.isfinite(loss) and grad.isfinite().all()


def test_dead_positions() -> None:
    full = make_batch(ungraded=True)
    said = make_now(full)
    dirty, clean = on_leaves(METHOD, *poisoned(full, said)), on_leaves(METHOD, full, said)
    assert dirty[0] == clean[0] and torch.equal(dirty[1], clean[1])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        GradientPreserving(beta_low=-0.5)
    with pytest.raises(ValueError, match="upper clip bound"):
        GradientPreserving(high=0.28)
