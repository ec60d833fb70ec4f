"""CE-GPPO: half of GPPO's low side, all of its high side, GPPO itself at beta_low 1."""

from __future__ import annotations

from dataclasses import replace

import torch

from rekindle.methods import ce_gppo, gppo
from tests.batches import make_batch, make_now
from tests.methods.stage import on_leaves

METHOD = ce_gppo.method()


def test_only_the_low_side_is_smaller() -> None:
    batch = make_batch(B=20, T=8, seed=3)
    now = make_now(batch, seed=4, spread=0.6)
    ours, theirs = on_leaves(METHOD, batch, now)[1], on_leaves(gppo.method(), batch, now)[1]
    ratio = (now.logp - batch.logp_old).exp()
    low = batch.live & (batch.advantage < 0) & (ratio < 0.8)
    assert low.any() and (batch.live & (batch.advantage > 0) & (ratio > 1.28)).any()
    torch.testing.assert_close(ours[low], theirs[low] / 2, rtol=1e-12, atol=0)
    assert torch.equal(ours[~low], theirs[~low])


def test_neutral_ce_gppo_is_gppo() -> None:
    neutral = METHOD.replace(objective=replace(METHOD.objective, beta_low=1.0))  # type: ignore[type-var]
    batch = make_batch(B=20, T=8, seed=3)
    now = make_now(batch, seed=4)
    got, want = on_leaves(neutral, batch, now), on_leaves(gppo.method(), batch, now)
    assert got[0] == want[0] and torch.equal(got[1], want[1]) and (want[1] != 0).any()
