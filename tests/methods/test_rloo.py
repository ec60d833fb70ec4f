"""RLOO on paper: the baseline is the mean of the other responses."""

from __future__ import annotations

import pytest
import torch

from rekindle.methods import grpo, rloo
from rekindle.train.options import diff
from tests.batches import hand_batch, make_batch

METHOD = rloo.method()


def test_one_right_answer_in_four() -> None:
    got = METHOD.credit(hand_batch([1.0, 0.0, 0.0, 0.0])).advantage[:, 0]
    assert got.tolist() == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3], rel=1e-12)


def test_two_responses_are_compared_with_each_other() -> None:
    assert METHOD.credit(hand_batch([0.25, 1.0])).advantage[:, 0].tolist() == [-0.75, 0.75]


def test_the_baseline_holds_every_other_graded_row_of_the_group() -> None:
    batch = make_batch(B=17, ungraded=True, shaped=True)
    got = METHOD.credit(batch).advantage
    for i in range(len(batch)):
        others = (batch.group == batch.group[i]) & batch.graded & (batch.uid != batch.uid[i])
        alone = not batch.graded[i] or not others.any()
        want = 0.0 if alone else (batch.score[i] - batch.score[others].mean()).item()
        assert got[i][batch.mask[i]].tolist() == pytest.approx([want] * int(batch.mask[i].sum()), abs=1e-12)


def test_only_the_advantage_differs_from_grpo() -> None:
    assert [change.path for change in diff(grpo.method(), METHOD)] == ["advantage"]
    batch = hand_batch([1.0, 0.0, 0.0, 0.0, 1.0])
    theirs, ours = grpo.method().credit(batch).advantage, METHOD.credit(batch).advantage
    assert torch.unique((ours / theirs).round(decimals=9)).numel() == 1, "the same up to a factor a group"
