"""Generalised advantages: the numbers on paper, a slow loop over compacted rows, and what lies off the mask."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rekindle.core.gae import OverValue, Returns, gae, reward_at_end
from tests.batches import hand_batch, make_batch


def row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def slow(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """A_t = sum over l of (gamma lam)^l delta_{t+l}, term by term."""
    ahead = [*values[1:], 0.0]
    delta = [r + gamma * n - v for r, n, v in zip(rewards, ahead, values, strict=True)]
    return [sum((gamma * lam) ** k * d for k, d in enumerate(delta[t:])) for t in range(len(delta))]


def test_numbers_on_paper() -> None:
    on = torch.ones(1, 3, dtype=torch.bool)
    got = gae(row([0, 0, 1]), row([0.5, 0.6, 0.7]), on, 1.0, 0.95)
    assert got[0].tolist() == pytest.approx([0.46575, 0.385, 0.3], abs=1e-12)
    batch = hand_batch([1.0], [3], value_old=row([0.5, 0.6, 0.7]))
    done = Returns()(batch)
    assert done.column("returns")[0].tolist() == pytest.approx([0.96575, 0.985, 1.0], abs=1e-12)
    assert OverValue(whiten=False)(done)[0].tolist() == pytest.approx([0.46575, 0.385, 0.3], abs=1e-12)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.97, 0.0)])
def test_a_position_off_the_mask_is_as_if_it_were_not_there(gamma: float, lam: float) -> None:
    batch = make_batch(seed=3)
    rng = torch.Generator().manual_seed(8)
    reward, value = (torch.randn(batch.mask.shape, generator=rng, dtype=torch.float64) for _ in range(2))
    dirty = [x.where(batch.mask, float("nan")) for x in (reward, value)]
    got = gae(dirty[0], dirty[1], batch.mask, gamma, lam)
    for r, v, m, g in zip(reward, value, batch.mask, got, strict=True):
        assert g[m].tolist() == pytest.approx(slow(r[m].tolist(), v[m].tolist(), gamma, lam), abs=1e-12)
        assert (g[~m] == 0).all()


def test_with_lam_one_the_return_is_the_score_at_every_token() -> None:
    batch = make_batch(shaped=True, ungraded=True)
    value = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    done = Returns(lam=1.0)(batch.with_columns(value_old=value))
    want = batch.score[:, None].where(batch.live, 0.0)
    torch.testing.assert_close(done.column("returns"), want, rtol=1e-12, atol=1e-12)
    flat = Returns(lam=1.0)(batch.with_columns(value_old=torch.zeros_like(value)))
    assert torch.equal(OverValue(whiten=False)(flat), want), "values of 0: the bare score"


def test_the_reward_is_at_the_last_live_token() -> None:
    batch = make_batch(ungraded=True)
    reward = reward_at_end(replace(batch, score=torch.ones_like(batch.score)))
    assert reward.sum(dim=1).tolist() == batch.live_rows.double().tolist()
    for r, live in zip(reward, batch.live, strict=True):
        assert not live.any() or r[live][-1] == 1


def test_whitening_is_over_live_tokens() -> None:
    batch = make_batch(ungraded=True)
    value = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    done = Returns()(batch.with_columns(value_old=value))
    a = OverValue()(done)[batch.live]
    assert a.mean().item() == pytest.approx(0, abs=1e-12) and a.var(correction=1).item() == pytest.approx(1, rel=1e-6)
    assert (OverValue()(done)[~batch.live] == 0).all()


@pytest.mark.parametrize("bad", [{"gamma": 1.1}, {"lam": -0.1}])
def test_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        Returns(**bad)
