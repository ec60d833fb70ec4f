"""Repetition and the number of answers of a step, on paper."""

from __future__ import annotations

import pytest
import torch

from rekindle.core.types import mean_metrics
from rekindle.tokens.labels import MajorityVote
from rekindle.train.health import GRAM, PREFIX, health_metrics, repetition
from tests.methods.made import VERIFIER, spoken


def repeated(rows: list[list[int]]) -> tuple[float, float]:
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[place < len(row) for place in range(width)] for row in rows])
    return repetition(ids, mask)


def slow(rows: list[list[int]]) -> tuple[float, float]:
    again = total = 0
    for row in rows:
        grams = [tuple(row[i : i + GRAM]) for i in range(min(len(row), PREFIX) - GRAM + 1)]
        again, total = again + len(grams) - len(set(grams)), total + len(grams)
    return float(again), float(total)


def test_repeated_grams_on_paper() -> None:
    assert repeated([[1, 2, 3, 4, 5, 6]]) == (0.0, 3.0)
    assert repeated([[7] * 10]) == (6.0, 7.0), "the first of them is new"
    assert repeated([[1, 2, 3, 4, 1, 2, 3, 4]]) == (1.0, 5.0)
    assert repeated([[1, 2, 3, 4], [1, 2, 3, 4]]) == (0.0, 2.0), "within a response, not between two"


def test_padding_and_short_responses_count_nothing() -> None:
    assert repeated([[0, 0, 0, 0, 0], [0, 0, 0]]) == (1.0, 2.0), "token 0 is a token where it is not padding"
    assert repeated([[1, 2]]) == (0.0, 0.0)


def test_only_a_prefix_is_looked_at_so_that_length_alone_moves_nothing() -> None:
    base = list(range(PREFIX))
    assert repeated([[*base, *base]]) == repeated([base])


@pytest.mark.parametrize("words", [2, 5, 150_000])
def test_it_agrees_with_counting(words: int) -> None:
    random = torch.Generator().manual_seed(words)
    lengths = torch.randint(1, 300, (20,), generator=random).tolist()
    rows = [torch.randint(0, words, (n,), generator=random).tolist() for n in lengths]
    assert repeated(rows) == slow(rows)


def test_answers_are_counted_a_group_and_truth_is_not_looked_at() -> None:
    rollouts = spoken([f"x={a}" for a in "55375279"] + ["x"] * 2, group=[0] * 8 + [1] * 2, truth="7")
    got = mean_metrics(health_metrics(rollouts, MajorityVote()(rollouts, VERIFIER)))
    assert got["answers/distinct"] == 5 / 10 and got["answers/majority"] == 3 / 10
    other = spoken([f"x={a}" for a in "55375279"] + ["x"] * 2, group=[0] * 8 + [1] * 2, truth="5")
    assert mean_metrics(health_metrics(other, MajorityVote()(other, VERIFIER))) == got
