"""GPG: alpha on paper, verl's other alpha, no ratio in the gradient, Dr. GRPO's advantage if all groups are mixed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rekindle.core.types import Now
from rekindle.methods import dr_grpo, gpg, grpo
from tests.batches import hand_batch, make_batch, make_now
from tests.methods.stage import on_leaves

METHOD = gpg.method()


def test_alpha_is_groups_over_mixed_groups() -> None:
    score = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    batch = hand_batch(score, group=[0, 0, 0, 0, 1, 1, 2, 2])
    assert METHOD.credit(batch).advantage[:, 0].tolist() == pytest.approx([2.25, -0.75, -0.75, -0.75, 0, 0, 0, 0])
    alone = METHOD.credit(batch.take(torch.arange(4))).advantage[:, 0]
    assert alone.tolist() == pytest.approx([0.75, -0.25, -0.25, -0.25]), "one mixed group of one: alpha is 1"
    verl = len(alone) / sum(s != 0 for s in score[:4]) * alone
    assert verl.tolist() == pytest.approx([3.0, -1.0, -1.0, -1.0]), "verl's alpha is responses over non-zero scores"


def test_a_group_that_is_not_graded_is_no_group_and_a_group_of_one_is_not_mixed() -> None:
    batch = hand_batch([1.0, 0.0, 1.0, 0.0, 1.0], group=[0, 0, 1, 1, 2], graded=[True, True, False, False, True])
    assert METHOD.credit(batch).advantage[:, 0].tolist() == pytest.approx([1.0, -1.0, 0.0, 0.0, 0.0])


def test_no_mixed_group_gives_exactly_nothing() -> None:
    batch = hand_batch([0.7] * 6, group=[0, 0, 0, 1, 1, 1], dtype=torch.float32)
    assert (METHOD.credit(batch).advantage == 0).all()


def test_all_mixed_is_dr_grpos_advantage() -> None:
    batch = make_batch(B=14)
    mixed = batch.take((grpo.method().credit(batch).advantage != 0).any(dim=1).nonzero()[:, 0])
    got, want = METHOD.credit(mixed).advantage, dr_grpo.method().credit(mixed).advantage
    assert torch.equal(got, want) and len(mixed.group.unique()) > 1 and (want != 0).any()


def test_the_gradient_is_minus_the_advantage_wherever_the_weights_are() -> None:
    batch = METHOD.credit(make_batch(ungraded=True))
    want = -(batch.advantage / batch.live.sum())
    for spread in (0.0, 3.0):
        now = make_now(batch, spread=spread)
        loss, grad, _ = on_leaves(METHOD, batch, now)
        torch.testing.assert_close(grad, want, rtol=1e-12, atol=0)
        total = sum((want[i, t] * now.logp[i, t]).item() for i, t in batch.live.nonzero().tolist())
        assert loss == pytest.approx(total, rel=1e-12)


def test_on_policy_the_gradient_is_that_of_the_clipped_ratio() -> None:
    batch = METHOD.credit(make_batch())
    here = Now(logp=batch.logp_old, entropy=torch.zeros_like(batch.logp_old))
    other = replace(METHOD, objective=grpo.method().objective)
    torch.testing.assert_close(on_leaves(METHOD, batch, here)[1], on_leaves(other, batch, here)[1], rtol=1e-12, atol=0)


def test_metrics_tell_the_drift_and_clip_nothing() -> None:
    batch = METHOD.credit(make_batch())
    metrics = METHOD.objective(make_now(batch, spread=1.0), batch)[1]
    assert metrics["clip_high"][0] == metrics["clip_low"][0] == metrics["outside"][0] == 0
    assert metrics["update_kl_k3"][0] > 0
