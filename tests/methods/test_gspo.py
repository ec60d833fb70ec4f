"""GSPO: the worked ratio in both forms, the clip, and GRPO where every response has one token."""

from __future__ import annotations

import pytest
import torch

from rekindle.core.aggregate import SequenceMean
from rekindle.core.objectives import Clip
from rekindle.core.ratios import sequence_ratio
from rekindle.core.types import Batch, Now
from rekindle.methods import grpo, gspo
from tests.batches import hand_batch, make_batch, make_now
from tests.methods.stage import on_leaves

METHOD = gspo.method()
WIDE = METHOD.replace(objective=Clip(low=0.0, high=1e9, level="sequence"))


def worked() -> tuple[Batch, Now]:
    old = torch.tensor([[0.5, 0.4, 0.1]], dtype=torch.float64).log()
    new = torch.tensor([[0.6, 0.3, 0.2]], dtype=torch.float64).log()
    batch = hand_batch([1.0], [3], logp_old=old, advantage=torch.ones(1, 3, dtype=torch.float64))
    return batch, Now(logp=new, entropy=torch.zeros_like(new))


def test_the_ratio_and_its_gradient_on_paper_in_both_forms() -> None:
    batch, now = worked()
    assert sequence_ratio(now, batch).item() == pytest.approx(1.216440, abs=1e-6)
    loss, token_form, _ = on_leaves(WIDE, batch, now)
    assert loss == pytest.approx(-1.216440, abs=1e-6)
    assert token_form[0].tolist() == pytest.approx([-0.405480] * 3, abs=1e-6)
    leaf = now.logp.clone().requires_grad_()
    shared = -sequence_ratio(Now(logp=leaf, entropy=now.entropy), batch).mean()
    assert torch.autograd.grad(shared, leaf)[0][0].tolist() == pytest.approx([-0.405480] * 3, abs=1e-6)


def test_its_own_bounds_clip_that_ratio() -> None:
    batch, now = worked()
    loss, grad, _ = on_leaves(METHOD, batch, now)
    assert loss == pytest.approx(-(1 + 4e-4)) and (grad == 0).all()
    close = Now(logp=batch.logp_old + torch.tensor([3e-4, 2e-4, 1e-4]), entropy=now.entropy)
    assert (on_leaves(METHOD, batch, close)[1] < 0).all(), "within 4e-4 nothing is clipped"


def test_a_response_is_clipped_whole_or_not_at_all() -> None:
    batch = make_batch()
    now = make_now(batch, spread=0.02)
    _, grad, _ = on_leaves(METHOD.replace(objective=Clip(low=0.99, high=1.01, level="sequence")), batch, now)
    rows = batch.live & (batch.advantage != 0)
    some, every = (grad != 0).any(dim=1), ((grad != 0) | ~rows).all(dim=1)
    assert torch.equal(some, every & rows.any(dim=1)) and some.any() and not some[rows.any(dim=1)].all()


def test_the_loss_and_its_gradient_by_the_sequence_form() -> None:
    batch = make_batch(ungraded=True)
    now = make_now(batch, spread=0.05)
    method = METHOD.replace(objective=Clip(low=0.97, high=1.03, level="sequence"))
    loss, grad, _ = on_leaves(method, batch, now)
    leaf = now.logp.detach().clone().requires_grad_()
    rows = []
    for i in batch.live_rows.nonzero()[:, 0].tolist():
        on = batch.live[i]
        s, a = (leaf[i][on] - batch.logp_old[i][on]).mean().exp(), batch.advantage[i][on][0]
        rows.append(torch.maximum(-a * s, -a * s.clamp(0.97, 1.03)))
    want = torch.stack(rows).mean()
    assert loss == pytest.approx(want.item(), rel=1e-12)
    torch.testing.assert_close(grad, torch.autograd.grad(want, leaf)[0], rtol=1e-10, atol=1e-15)


def test_with_one_token_a_response_and_grpos_bounds_it_is_grpo() -> None:
    batch = make_batch(B=12, T=4)
    first = batch.mask & (batch.mask.cumsum(1) == 1)
    batch = hand_batch(
        batch.score.tolist(),
        group=batch.group.tolist(),
        logp_old=batch.logp_old[first][:, None],
        advantage=batch.advantage[first][:, None],
    )
    now = make_now(batch, spread=0.5)
    neutral = METHOD.replace(objective=Clip(low=0.8, high=1.2, dual=3.0, level="sequence"))
    got, want = on_leaves(neutral, batch, now), on_leaves(grpo.method(), batch, now)
    assert got[0] == pytest.approx(want[0], rel=1e-12) and (want[1] == 0).any() and (want[1] != 0).any()
    torch.testing.assert_close(got[1], want[1], rtol=1e-12, atol=0)
    assert isinstance(METHOD.aggregate, SequenceMean)
