"""The clipped surrogate: gradient tables worked by hand, GSPO, metrics, and what must not matter."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from rekindle.core.aggregate import SequenceMean, TokenMean
from rekindle.core.objectives import Clip
from rekindle.core.schedules import Linear
from rekindle.core.types import Now, mean_metrics
from tests.batches import assert_alive, hand_batch, make_batch, make_now, pad, poisoned

LEVELS = ("token", "sequence", "segment")
PARTS = [Clip(low=0.9, high=1.1, dual=dual, level=level) for level in LEVELS for dual in (None, 1.3)]
parts = pytest.mark.parametrize("part", PARTS, ids=str)


def one_row(ratio: list[float], advantage: list[float]):
    """One row of tokens with these ratios and advantages."""
    old = torch.full((1, len(ratio)), -5.0, dtype=torch.float64)
    new = old + torch.tensor([ratio], dtype=torch.float64).log()
    batch = hand_batch([1.0], [len(ratio)], logp_old=old, advantage=torch.tensor([advantage], dtype=torch.float64))
    return batch, Now(logp=new.requires_grad_(), entropy=torch.zeros_like(new))


def gradient(part: Clip, now: Now, batch, weights=None) -> torch.Tensor:
    loss = part(now, batch)[0]
    return torch.autograd.grad((loss if weights is None else weights * loss).sum(), now.logp)[0]


@pytest.mark.parametrize(
    ("advantage", "dual", "ratio", "want"),
    [
        (1.0, None, [0.7, 1.25, 1.5], [-0.7, -1.25, 0.0]),
        (-1.0, None, [0.7, 1.25, 1.5, 4.0], [0.0, 1.25, 1.5, 4.0]),
        (-1.0, 3.0, [0.7, 1.25, 1.5, 4.0], [0.0, 1.25, 1.5, 0.0]),
        (1.0, 3.0, [0.7, 1.25, 1.5, 4.0], [-0.7, -1.25, 0.0, 0.0]),
    ],
)
def test_gradient_tables(advantage: float, dual: float | None, ratio: list[float], want: list[float]) -> None:
    batch, now = one_row(ratio, [advantage] * len(ratio))
    got = gradient(Clip(low=0.8, high=1.28, dual=dual), now, batch)
    assert got[0].tolist() == pytest.approx(want, abs=1e-12)


def test_values() -> None:
    batch, now = one_row([0.7, 1.25, 1.5, 0.7, 1.5, 4.0], [1, 1, 1, -1, -1, -1])
    loss, _ = Clip(low=0.8, high=1.28, dual=3.0)(now, batch)
    assert loss[0].tolist() == pytest.approx([-0.7, -1.25, -1.28, 0.8, 1.5, 3.0])
    loss, _ = Clip(low=0.8, high=1.28)(now, batch)
    assert loss[0, 5].item() == pytest.approx(4.0), "without the dual clip a bad action costs without bound"


def test_clip_shares() -> None:
    batch, now = one_row([1.3, 1.1, 0.7, 0.7, 1.5, 9.9], [1, 1, -1, 1, -1, 0])
    mean = mean_metrics(Clip(dual=1.4)(now, batch)[1])
    assert mean["clip_high"] == mean["clip_low"] == pytest.approx(0.2), "zero advantage does not dilute"
    assert mean["clip_dual"] == pytest.approx(0.2)
    assert mean["outside"] == pytest.approx(5 / 6) and mean["ratio"] == pytest.approx(15.2 / 6)
    five, now5 = one_row([1.3, 1.1, 0.7, 0.7, 1.5], [1, 1, -1, 1, -1])
    assert mean_metrics(Clip()(now5, five)[1])["outside"] == pytest.approx(0.8)
    assert "clip_dual" not in Clip()(now5, five)[1]


def test_update_kl() -> None:
    batch, now = one_row([1.0, 2.0, 0.5], [1, 1, 1])
    log2 = 0.6931471805599453
    want = ((2 - log2 - 1) + (0.5 + log2 - 1)) / 3
    assert mean_metrics(Clip()(now, batch)[1])["update_kl_k3"] == pytest.approx(want)


def gspo(level: str, **bounds: float):
    old, new = torch.tensor([[0.5, 0.4, 0.1]]).double().log(), torch.tensor([[0.6, 0.3, 0.2]]).double().log()
    columns = {"advantage": torch.ones(1, 3).double(), "segment": torch.zeros(1, 3, dtype=torch.int64)}
    batch = hand_batch([1.0], [3], logp_old=old, **columns)
    now = Now(logp=new.requires_grad_(), entropy=torch.zeros_like(new))
    part = Clip(level=level, **bounds)
    loss, _ = part(now, batch)
    return loss[0].tolist(), gradient(part, now, batch, SequenceMean()(batch, batch.live))[0].tolist()


@pytest.mark.parametrize("level", ["sequence", "segment"])
def test_gspo_example(level: str) -> None:
    loss, grad = gspo(level, low=0.0, high=100.0)
    assert loss == pytest.approx([-1.216440] * 3, abs=1e-6) and grad == pytest.approx([-0.405480] * 3, abs=1e-6)
    loss, grad = gspo(level, low=1 - 3e-4, high=1 + 4e-4)
    assert loss == pytest.approx([-1.0004] * 3) and grad == [0, 0, 0]


def test_gspo_gradient_equals_that_of_the_sequence_form() -> None:
    batch = make_batch()
    now = make_now(batch)
    got = gradient(Clip(low=0.0, high=1e9, level="sequence"), now, batch, SequenceMean()(batch, batch.live))
    lengths = batch.mask.sum(dim=1)
    ratio = (((now.logp - batch.logp_old) * batch.mask).sum(dim=1) / lengths).exp()
    (want,) = torch.autograd.grad(-(batch.advantage[:, 0] * ratio).mean(), now.logp)
    assert want.abs().max() > 1e-3
    torch.testing.assert_close(got, want, rtol=0, atol=1e-15)


@pytest.mark.parametrize("level", LEVELS)
def test_on_policy_the_gradient_is_minus_a(level) -> None:
    batch = make_batch()
    assert_alive(batch)
    now = make_now(batch, spread=0.0)
    got = gradient(Clip(level=level), now, batch)
    torch.testing.assert_close(got, -batch.advantage, rtol=0, atol=1e-15)


@parts
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nothing_off_live_positions_matters(part: Clip, bad: float) -> None:
    batch = make_batch(ungraded=True)
    now = make_now(batch)
    dirty, unclean = poisoned(batch, now, bad)
    (loss, metrics), (got, dirty_metrics) = part(now, batch), part(unclean, dirty)
    assert loss.abs().sum() > 0 and metrics["clip_high"][0] + metrics["clip_low"][0] > 0
    assert torch.equal(got, loss) and metrics == dirty_metrics and (got[~batch.live] == 0).all()
    assert torch.equal(gradient(part, unclean, dirty), gradient(part, now, batch))


@parts
def test_row_order_and_padding_are_invisible(part: Clip) -> None:
    batch = make_batch()
    now = make_now(batch)
    loss, metrics = part(now, batch)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(3))
    moved, again = part(Now(logp=now.logp[order], entropy=now.entropy[order]), batch.take(order))
    torch.testing.assert_close(moved, loss[order], rtol=0, atol=1e-12)
    assert mean_metrics(again) == pytest.approx(mean_metrics(metrics), rel=1e-12)
    wide_batch, wide_now = pad(batch, now)
    wide, _ = part(wide_now, wide_batch)
    torch.testing.assert_close(wide[:, : loss.shape[1]], loss, rtol=0, atol=1e-12)
    grad = gradient(part, wide_now, wide_batch, TokenMean()(wide_batch, wide_batch.live))
    assert (grad[:, loss.shape[1] :] == 0).all() and grad.abs().sum() > 0


@parts
def test_a_row_does_not_see_other_rows(part: Clip) -> None:
    """What `separable` promises: the loss and the metrics of pieces add up to those of the whole."""
    batch = make_batch()
    now = make_now(batch)
    loss, metrics = part(now, batch)
    for piece in torch.arange(len(batch)).split(5):
        got, more = part(Now(logp=now.logp[piece], entropy=now.entropy[piece]), batch.take(piece))
        torch.testing.assert_close(got, loss[piece], rtol=0, atol=1e-12)
        metrics = {name: (metrics[name][0] - more[name][0], metrics[name][1] - more[name][1]) for name in metrics}
    assert all(total == pytest.approx(0, abs=1e-9) and count == 0 for total, count in metrics.values())
    assert part.separable


@parts
def test_degenerate_batches(part: Clip) -> None:
    batch = make_batch()
    now = make_now(batch)
    for dead in (replace(batch, mask=torch.zeros_like(batch.mask)), replace(batch, graded=batch.graded & False)):
        loss, metrics = part(now, dead)
        assert (loss == 0).all() and mean_metrics(metrics) == {}
    flat = batch.with_columns(advantage=torch.zeros_like(batch.advantage))
    assert (part(now, flat)[0] == 0).all() and (gradient(part, now, flat) == 0).all()
    assert "clip_high" not in mean_metrics(part(now, flat)[1]) and "ratio" in mean_metrics(part(now, flat)[1])


@pytest.mark.parametrize(
    ("bounds", "match"),
    [
        ({"low": 1.1}, "lower clip bound"),
        ({"low": -0.1}, "lower clip bound"),
        ({"low": float("nan")}, "lower clip bound"),
        ({"high": 0.2}, "upper clip bound"),
        ({"high": float("nan")}, "upper clip bound"),
        ({"dual": 1.2}, "dual clip bound"),
        ({"dual": 0.5}, "dual clip bound"),
    ],
)
def test_bounds_are_checked(bounds: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Clip(**bounds)


def test_scheduled_bounds_must_be_resolved() -> None:
    batch = make_batch()
    with pytest.raises(TypeError, match="call resolve"):
        Clip(high=Linear(1.2, 1.4), dual=3.0)(make_now(batch), batch)


@parts
def test_parts_are_values(part: Clip) -> None:
    assert pickle.loads(pickle.dumps(part)) == part
