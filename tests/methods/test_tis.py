"""TIS: the weights of a sampler that differs from the trainer, by token and by sequence, cut and masked."""

from __future__ import annotations

import math

import pytest
import torch

from rekindle.core.aggregate import SamplerWeighted, SequenceMean, TokenMean
from rekindle.core.types import Batch
from rekindle.methods import grpo, tis
from tests.batches import hand_batch, make_batch, make_now, poisoned
from tests.methods.stage import on_leaves

METHOD = tis.method()


def drifted(w: list[list[float]]) -> Batch:
    """Rows whose tokens have these ratios trainer / sampler."""
    log = torch.nn.utils.rnn.pad_sequence([torch.tensor(row).double().log() for row in w], batch_first=True)
    old = torch.full_like(log, -1.0)
    return hand_batch([1.0] * len(w), [len(row) for row in w], logp_old=old, logp_sampled=old - log)


def weights(part: SamplerWeighted, batch: Batch) -> list[list[float]]:
    """Weights times the number of live tokens, live ones only."""
    found = part(batch, batch.live) * batch.live.sum()
    return [row[on].tolist() for row, on in zip(found, batch.live, strict=True)]


W = [[0.5, 3.0, 1.5], [1.0, 4.0], [0.9]]


@pytest.mark.parametrize(
    ("level", "mask", "want"),
    [
        ("token", False, [[0.5, 2.0, 1.5], [1.0, 2.0], [0.9]]),
        ("token", True, [[0.5, 0.0, 1.5], [1.0, 0.0], [0.9]]),
        ("sequence", False, [[2.0] * 3, [2.0] * 2, [0.9]]),
        ("sequence", True, [[0.0] * 3, [0.0] * 2, [0.9]]),
    ],
)
def test_weights_on_paper(level, mask: bool, want: list[list[float]]) -> None:
    got = weights(SamplerWeighted(level=level, mask=mask, cap=2.0), drifted(W))
    assert [x for row in got for x in row] == pytest.approx([x for row in want for x in row], rel=1e-6)


def test_a_sequence_weight_is_the_product_of_its_tokens() -> None:
    got = weights(SamplerWeighted(level="sequence", cap=3.0), drifted(W))
    assert [row[0] for row in got] == pytest.approx([2.25, 3.0, 0.9], rel=1e-6)


def test_log_ratios_are_clamped_so_that_nothing_overflows() -> None:
    batch = drifted([[1e30, 1e30], [1e-30, 1e-30]])
    got = weights(SamplerWeighted(level="sequence", cap=1e12), batch)
    assert got[0][0] == pytest.approx(math.exp(20)) and got[1][0] == pytest.approx(math.exp(-20))


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("mask", [False, True])
def test_the_loss_by_a_slow_loop(level, mask: bool) -> None:
    batch = make_batch(ungraded=True)
    rng = torch.Generator().manual_seed(2)
    drift = torch.randn(batch.mask.shape, generator=rng, dtype=torch.float64)
    batch = batch.with_columns(logp_sampled=(batch.logp_old + 0.6 * drift).where(batch.mask, 0.0))
    now = make_now(batch)
    part = SamplerWeighted(level=level, mask=mask, cap=1.5)
    values = METHOD.objective(now, batch)[0].detach()
    total = 0.0
    for i, t in batch.live.nonzero().tolist():
        gap = (batch.logp_old[i] - batch.column("logp_sampled")[i]).where(batch.live[i], 0.0)
        w = math.exp((gap.sum() if level == "sequence" else gap[t]).item())
        total += values[i, t].item() * ((w if w <= 1.5 else 0.0) if mask else min(w, 1.5))
    got = on_leaves(METHOD.replace(aggregate=part), batch, now)[0]
    assert got == pytest.approx(total / int(batch.live.sum()), rel=1e-12)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_with_the_trainers_own_samples_it_is_grpo(level) -> None:
    batch = make_batch()
    batch = batch.with_columns(logp_sampled=batch.logp_old)
    now = make_now(batch)
    ours = METHOD.replace(aggregate=SamplerWeighted(inner=TokenMean(), level=level, cap=2.0))
    got, want = on_leaves(ours, batch, now), on_leaves(grpo.method(), batch, now)
    assert got[0] == pytest.approx(want[0], rel=1e-12) and (want[1] != 0).any()
    torch.testing.assert_close(got[1], want[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_what_is_off_live_positions_never_counts(level) -> None:
    batch = make_batch(ungraded=True)
    batch = batch.with_columns(logp_sampled=batch.logp_old - 0.3)
    part = SamplerWeighted(inner=SequenceMean(), level=level)
    dirty = poisoned(batch, make_now(batch))[0]
    assert torch.equal(part(dirty, dirty.live), part(batch, batch.live))
    assert (part(batch, batch.live)[~batch.live] == 0).all()


def test_a_cap_is_above_zero() -> None:
    with pytest.raises(ValueError, match="above 0"):
        SamplerWeighted(cap=0.0)
