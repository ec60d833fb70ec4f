"""NGRPO: the source's numbers, a slow loop, and that a group at the best score is silent."""

from __future__ import annotations

import statistics

import pytest
import torch

from rekindle.core.types import Now
from rekindle.methods import ngrpo
from rekindle.methods.ngrpo import VirtualBest
from tests.batches import hand_batch, make_batch
from tests.methods.stage import on_leaves

METHOD = ngrpo.method()


def credited(score: list[float], dtype: torch.dtype = torch.float64) -> list[float]:
    return METHOD.credit(hand_batch(score, dtype=dtype)).advantage[:, 0].tolist()


def test_numbers_of_the_sheet() -> None:
    assert credited([0.0] * 8) == pytest.approx([-1 / 3] * 8, abs=2e-6)
    assert credited([1.0, 1.0, *[0.0] * 6]) == pytest.approx([4 / 3] * 2 + [-2 / 3] * 6, abs=5e-6)
    assert credited([1.0] * 8) == [0.0] * 8


def test_advantages_are_those_of_the_slow_loop() -> None:
    batch = make_batch(20, shaped=True, ungraded=True)
    got = VirtualBest(best=1.5)(batch)
    for group in batch.group.unique():
        rows = ((batch.group == group) & batch.graded).nonzero()[:, 0].tolist()
        scores = [batch.score[i].item() for i in rows] + [1.5]
        mean, std = statistics.fmean(scores), statistics.stdev(scores)
        for i in rows:
            want = (batch.score[i].item() - mean) / (std + 1e-6)
            assert got[i][batch.live[i]].tolist() == pytest.approx([want] * int(batch.live[i].sum()), rel=1e-12)
    assert (got[~batch.live] == 0).all()


@pytest.mark.parametrize("value", [1.0, 0.7])
def test_a_group_at_the_best_score_is_exactly_silent_in_single_precision(value: float) -> None:
    batch = hand_batch([value] * 16, dtype=torch.float32)
    assert (VirtualBest(best=batch.score[0].item())(batch) == 0).all()


def test_the_rows_sum_to_minus_what_the_virtual_one_would_get() -> None:
    batch = make_batch(20)
    advantage = VirtualBest(eps=0.0)(batch)
    first = batch.group.unique()[1]
    rows = batch.group == first
    scores = torch.cat([batch.score[rows], torch.ones(1, dtype=torch.float64)])
    assert advantage[rows, 0].sum().item() == pytest.approx(-((1 - scores.mean()) / scores.std()).item(), rel=1e-12)


def test_the_clip_is_tight_below() -> None:
    batch = METHOD.credit(hand_batch([1.0, 0.0], [3, 3]))
    old = torch.zeros(2, 3, dtype=torch.float64)
    ratio = torch.tensor([0.82, 0.86, 1.25], dtype=torch.float64)
    _, grad, _ = on_leaves(METHOD, batch.with_columns(logp_old=old), Now(logp=old + ratio.log(), entropy=old))
    assert (grad[0] != 0).tolist() == [True, True, False] and (grad[1] != 0).tolist() == [False, True, True]
