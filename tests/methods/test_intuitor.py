"""INTUITOR: the source's numbers of self-certainty, its invariances, and the score it makes of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rekindle.core.types import Seen
from rekindle.methods import intuitor
from rekindle.methods.intuitor import SelfCertainty, certainty
from tests.batches import hand_batch
from tests.methods.made import group_rollouts
from tests.methods.stage import collected, on_leaves

METHOD = intuitor.method()
HAND = torch.tensor([[2.0, 1.0, 0.0, -1.0]], dtype=torch.float64)


def seen(logits: Tensor) -> Seen:
    """What a pass shows whose logits are `logits`."""
    return Seen({"policy": logits}, {}, {}, {}, torch.zeros(len(logits), dtype=torch.int64))


def test_worked_example() -> None:
    got = certainty(seen(HAND)).item()
    assert got == pytest.approx(1.940190, abs=1e-6)
    assert got - math.log(4) == pytest.approx(0.553895, abs=1e-6), "KL(uniform || p)"
    uniform = torch.full((4,), 0.25, dtype=torch.float64)
    p = torch.softmax(HAND[0], dim=0)
    assert (uniform * (uniform / p).log()).sum().item() == pytest.approx(got - math.log(4), abs=1e-12)


def test_it_ignores_a_constant_and_grows_without_bound_with_the_scale() -> None:
    assert certainty(seen(HAND + 7)).item() == pytest.approx(certainty(seen(HAND)).item(), rel=1e-12)
    sizes = [certainty(seen(HAND * scale)).item() for scale in (0.0, 1.0, 10.0, 1000.0)]
    assert sizes[0] == pytest.approx(math.log(4)) and sizes == sorted(sizes) and sizes[-1] > 1000


def test_forbidden_tokens_are_left_out() -> None:
    barred = torch.cat([HAND, torch.full((1, 3), -torch.inf, dtype=torch.float64)], dim=1)
    assert certainty(seen(barred)).item() == pytest.approx(1.940190, abs=1e-6)


def test_the_score_is_the_mean_over_the_response() -> None:
    column = torch.tensor([[1.0, 3.0, float("nan")], [2.0, 4.0, 9.0]], dtype=torch.float64)
    batch = hand_batch([1, 0], [2, 3]).with_columns(certainty_old=column)
    assert SelfCertainty()(batch).score.tolist() == [2.0, 5.0]


def test_scores_are_those_of_the_weights_that_sampled_and_carry_no_gradient() -> None:
    stage, batch = collected(METHOD, group_rollouts(2))
    assert batch.success.all() and (batch.advantage != 0).any(), "unanimity does not silence it"
    again = METHOD.credit(stage.score(batch))
    assert not torch.equal(again.score, batch.score), "the stage's weights have moved since"
    _, by_logp, by_entropy = on_leaves(METHOD, batch, stage.policy(batch).detach())
    assert (by_logp != 0).any() and (by_entropy == 0).all()
    first = batch.advantage.where(batch.live, -torch.inf).amax(dim=1)
    assert torch.equal(first.argsort(), batch.score.argsort()), "the more certain, the better"


def test_column_against_a_slow_loop() -> None:
    stage, batch = collected(METHOD, group_rollouts(5))
    column = stage.policy.columns(batch, METHOD.needs(), {"reference": stage.reference})["certainty_old"]
    logits = stage.policy.logits(batch)
    for b, t in batch.mask.nonzero().tolist():
        z = logits[b, t].tolist()
        want = math.log(sum(math.exp(v) for v in z)) - sum(z) / len(z)
        assert column[b, t].item() == pytest.approx(want, rel=1e-12)
    assert (column[~batch.mask] == 0).all()
