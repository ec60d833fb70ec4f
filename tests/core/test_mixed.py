"""The clip around a stale row's own centre, the KL between two anchors and its schedule: numbers worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rekindle.core.mixed import Anneal, KLConvex, MixedClip
from rekindle.core.objectives import Clip
from rekindle.core.terms import EntropyBonus, KLToReference
from rekindle.core.types import Batch, MissingColumn, Now
from tests.batches import hand_batch, make_batch, make_now


def one(now: float, old: float, sampled: float, advantage: float, clip: MixedClip) -> tuple[float, float]:
    """(loss, its derivative by logp) of one token, from probabilities: now, at this step's start, when sampled."""
    columns = {"logp_old": math.log(old), "drift": math.log(old / sampled), "advantage": advantage}
    batch = hand_batch([1.0], **{n: torch.tensor([[v]], dtype=torch.float64) for n, v in columns.items()})
    logp = torch.tensor([[math.log(now)]], dtype=torch.float64, requires_grad=True)
    loss = clip(Now(logp=logp, entropy=torch.zeros_like(logp)), batch)[0].sum()
    loss.backward()
    assert logp.grad is not None
    return loss.item(), logp.grad.item()


@pytest.mark.parametrize(
    ("now", "old", "sampled", "advantage", "loss", "grad"),
    [
        (0.36, 0.3, 0.2, 1.0, -1.7, 0.0),
        (0.36, 0.3, 0.3, 1.0, -1.2, None),  # at the very bound
        (0.22, 0.3, 0.2, -1.0, 1.3, 0.0),
        (0.36, 0.3, 0.2, -1.0, 1.8, 1.8),
        (0.33, 0.3, 0.2, 1.0, -1.65, -1.65),
        (0.02, 0.01, 0.1, -1.0, 0.2, 0.2),  # c = 0.1: the lower end is 0, not below
    ],
)
def test_worked_clips(
    now: float, old: float, sampled: float, advantage: float, loss: float, grad: float | None
) -> None:
    got = one(now, old, sampled, advantage, MixedClip(width=0.2))
    assert got[0] == pytest.approx(loss, abs=1e-9)
    assert grad is None or got[1] == pytest.approx(grad, abs=1e-9)


def test_the_dual_bound_caps_what_a_bad_token_costs() -> None:
    assert one(0.9, 0.8, 0.1, -1.0, MixedClip(width=0.2, dual=3.0)) == pytest.approx((3.0, 0.0))
    assert one(0.9, 0.8, 0.1, -1.0, MixedClip(width=0.2)) == pytest.approx((9.0, 9.0))
    assert one(0.9, 0.8, 0.1, 1.0, MixedClip(width=0.2, dual=3.0)) == pytest.approx((-8.2, 0.0))


def drifted(batch: Batch, spread: float) -> Batch:
    """The batch with a drift of its own on every token."""
    drift = spread * torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return batch.with_columns(drift=drift.to(batch.logp_old.dtype).where(batch.mask, 0.0))


@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0])
def test_at_the_weights_of_the_step_nothing_is_clipped_however_stale(spread: float) -> None:
    batch = drifted(make_batch(), spread)
    logp = batch.logp_old.clone().requires_grad_()
    loss, metrics = MixedClip(width=0.2)(Now(logp=logp, entropy=torch.zeros_like(logp)), batch)
    loss.sum().backward()
    want = (-batch.column("drift").exp() * batch.advantage).where(batch.live, 0.0)
    assert metrics["outside"][0] == metrics["clip_high"][0] == metrics["clip_low"][0] == 0
    assert torch.equal(loss.detach(), want) and logp.grad is not None and (want != 0).any()
    torch.testing.assert_close(logp.grad, want, rtol=1e-14, atol=0)


def outcome(objective: Clip | MixedClip, batch: Batch, now: Now) -> tuple[Tensor, Tensor, dict]:
    leaf = Now(logp=now.logp.detach().requires_grad_(), entropy=now.entropy.detach())
    loss, metrics = objective(leaf, batch)
    return loss.detach(), torch.autograd.grad(loss.sum(), leaf.logp)[0], metrics


@pytest.mark.parametrize("dual", [None, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fresh_rows_are_clipped_as_by_ppo_bit_for_bit(dtype: torch.dtype, dual: float | None) -> None:
    batch = drifted(make_batch(dtype=dtype), 0.0)
    now = make_now(batch, spread=1.0)
    ours = outcome(MixedClip(width=0.2, dual=dual), batch, now)
    theirs = outcome(Clip(low=0.8, high=1.2, dual=dual), batch, now)
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1]) and ours[2] == theirs[2]
    assert theirs[2]["clip_high"][0] > 0


def test_log_ratios_far_out_stay_finite() -> None:
    assert all(math.isfinite(value) for value in one(0.5, 0.5, 1e-300, -1.0, MixedClip()))
    assert all(math.isfinite(value) for value in one(1e-300, 1e-300, 0.5, 1.0, MixedClip()))


def test_lam_of_the_steps() -> None:
    found = {t: Anneal().lam(t) for t in (0, 50, 51, 60, 61, 80, 95, 500)}
    want = {0: 1.0, 50: 1.0, 51: 0.9, 60: 0.9, 61: 0.8, 80: 0.7, 95: 0.5, 500: 0.5}
    assert found == pytest.approx(want)
    batch = Anneal()(hand_batch([1.0, 0.0]), SimpleNamespace(step_index=79))  # the 80th
    assert batch.column("lam").tolist() == pytest.approx([0.7, 0.7])


def convex(lam: float, pi: list[float], base: list[float], previous: list[float]) -> float:
    """The expected term of one position: a row for each token, weighed by its probability."""
    logs = {"logp_ref": base, "logp_previous": previous}
    columns = {name: torch.tensor(p, dtype=torch.float64).log()[:, None] for name, p in logs.items()}
    batch = hand_batch([1.0] * len(pi), **columns).with_columns(lam=torch.full((len(pi),), lam))
    weights = torch.tensor(pi, dtype=torch.float64)
    logp = weights.log()[:, None]
    value, _ = KLConvex(coef=1.0).per_token(Now(logp=logp, entropy=logp), batch)
    return (weights * value[:, 0]).sum().item()


def test_the_kl_is_convex_in_its_two_anchors() -> None:
    example = ([0.5, 0.3, 0.2], [0.25, 0.25, 0.5], [0.4, 0.4, 0.2])
    assert convex(1.0, *example) == pytest.approx(0.21801, abs=1e-5)
    assert convex(0.0, *example) == pytest.approx(0.02527, abs=1e-5)
    assert convex(0.7, *example) == pytest.approx(0.16019, abs=1e-5)
    ends = convex(0.0, *example), convex(1.0, *example)
    for lam in (0.1, 0.5, 0.9):
        assert convex(lam, *example) == pytest.approx(ends[0] + lam * (ends[1] - ends[0]), rel=1e-6)


def test_lam_one_is_the_kl_to_the_reference_bit_for_bit_and_lam_zero_to_the_other() -> None:
    batch = make_batch()
    other = batch.column("logp_ref").flip(0).where(batch.mask, 0.0)
    now = make_now(batch)
    for lam, anchor in ((1.0, batch.column("logp_ref")), (0.0, other)):
        both = batch.with_columns(lam=torch.full_like(batch.score, lam), logp_previous=other)
        ours, metrics = KLConvex(coef=0.3).per_token(now, both)
        theirs, _ = KLToReference(coef=0.3).per_token(now, batch.with_columns(logp_ref=anchor))
        assert torch.equal(ours, theirs) and metrics.keys() == {"kl_ref", "kl_previous"}
        assert torch.equal(*(torch.autograd.grad(x.sum(), now.logp, retain_graph=True)[0] for x in (ours, theirs)))
    with pytest.raises(MissingColumn, match="lam"):
        KLConvex(coef=0.3).per_token(now, batch.with_columns(logp_previous=other))
    assert torch.equal(KLConvex(coef=1.0).weights(batch), EntropyBonus(coef=1.0).weights(batch))


def test_ungraded_rows_count_in_neither() -> None:
    batch = drifted(make_batch(ungraded=True), 1.0)
    batch = batch.with_columns(lam=torch.full_like(batch.score, 0.5), logp_previous=batch.logp_old)
    dirty = {n: batch.column(n).where(batch.live, torch.nan) for n in ("drift", "logp_ref", "logp_previous")}
    for part in (MixedClip(dual=3.0), KLConvex(coef=1.0).per_token):
        now = make_now(batch)
        assert torch.equal(part(now, batch)[0], part(now, batch.with_columns(**dirty))[0])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MixedClip(width=-0.1), "0 or more"),
        (lambda: MixedClip(dual=1.0), "above 1"),
        (lambda: replace(Anneal(), every=0), "lam falls"),
        (lambda: Anneal(floor=1.5), "lam falls"),
    ],
)
def test_settings_that_cannot_be(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
