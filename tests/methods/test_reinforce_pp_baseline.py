"""REINFORCE++-baseline: group mean, then the scale of the whole batch; the k2 KL in its loss."""

from __future__ import annotations

import pytest
import torch

from rekindle.core.advantages import BatchWhitened
from rekindle.core.terms import KLToReference
from rekindle.core.types import Now
from rekindle.methods import reinforce_pp_baseline
from tests.batches import hand_batch, make_batch, make_now
from tests.methods.stage import on_leaves

METHOD = reinforce_pp_baseline.method()


@pytest.mark.parametrize(("ddof", "high", "low"), [(0, 2.0, -0.5), (1, 1.897367, -0.474342)])
def test_with_one_group_it_is_reinforce_pp(ddof: int, high: float, low: float) -> None:
    batch = hand_batch([1.0, 0.0, 0.0, 0.0], [2, 4, 3, 1])
    got = METHOD.replace(advantage=BatchWhitened(ddof=ddof)).credit(batch).advantage
    want = torch.tensor([[high], [low], [low], [low]], dtype=torch.float64).where(batch.mask, 0.0)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def test_two_groups_by_a_slow_loop() -> None:
    batch = make_batch(B=15, ungraded=True, shaped=True)
    tokens, place = [], []
    for i in range(len(batch)):
        rows = (batch.group == batch.group[i]) & batch.graded
        centred = (batch.score[i] - batch.score[rows].mean()).item() if int(rows.sum()) > 1 else 0.0
        for t in batch.live[i].nonzero()[:, 0].tolist():
            tokens.append(centred)
            place.append((i, t))
    x = torch.tensor(tokens, dtype=torch.float64)
    want = torch.zeros(batch.mask.shape, dtype=torch.float64)
    for (i, t), value in zip(place, ((x - x.mean()) / (x.var(correction=0) + 1e-8).sqrt()).tolist(), strict=True):
        want[i, t] = value
    torch.testing.assert_close(METHOD.credit(batch).advantage, want, rtol=1e-12, atol=1e-12)


def test_a_constant_group_is_whitened_with_the_rest() -> None:
    batch = hand_batch([1.0, 0.0, 0.0, 1.0, 1.0], [2, 1, 1, 2, 2], [0, 0, 0, 1, 1])
    got = METHOD.credit(batch).advantage
    assert got[3, 0].item() == pytest.approx(got[4, 1].item()) and got[3, 0] < 0, "the token mean is above 0"


def test_equal_scores_everywhere_give_exactly_nothing() -> None:
    assert (METHOD.credit(hand_batch([0.7] * 6, group=[0, 0, 0, 1, 1, 1])).advantage == 0).all()


def test_the_loss_holds_a_small_k2_whose_gradient_leads_to_the_reference() -> None:
    batch = METHOD.credit(make_batch())
    now = make_now(batch, spread=0.2)
    plain = METHOD.replace(terms=())
    loud = METHOD.replace(terms=(KLToReference(coef=1.0, estimator="k2"),))
    _, none, _ = on_leaves(plain, batch, now)
    x = (batch.column("logp_ref") - now.logp.detach()).where(batch.live, 0.0)
    torch.testing.assert_close(on_leaves(loud, batch, now)[1] - none, -x / batch.live.sum(), rtol=1e-9, atol=1e-15)
    small = on_leaves(METHOD, batch, now)[1] - none
    torch.testing.assert_close(small, -1e-5 * x / batch.live.sum(), rtol=1e-6, atol=1e-15)
    assert isinstance(now, Now) and (small != 0).any()
