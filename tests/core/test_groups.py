"""Group statistics: any order, ragged sizes, only valid rows, defined on degenerate groups."""

from __future__ import annotations

import pytest
import torch

from rekindle.core.groups import (
    group_constant,
    group_count,
    group_index,
    group_max,
    group_mean,
    group_min,
    group_std,
    group_sum,
)

# Group 40 holds rows 0 2 5 (row 5 invalid), group -3 rows 1 3 4, group 7 row 6, group 9 row 7 (invalid).
GROUP = torch.tensor([40, -3, 40, -3, -3, 40, 7, 9])
X = torch.tensor([1.0, 5.0, 4.0, 5.0, 2.0, float("nan"), 3.0, float("inf")], dtype=torch.float64)
VALID = torch.tensor([True] * 5 + [False, True, False])


def test_index_counts_groups_in_any_order() -> None:
    index, groups = group_index(GROUP)
    assert groups == 4
    assert sorted(set(index.tolist())) == [0, 1, 2, 3]
    assert torch.equal(index[:, None] == index, GROUP[:, None] == GROUP)


@pytest.mark.parametrize(
    ("function", "want"),
    [
        (group_sum, [5, 12, 5, 12, 12, 5, 3, 0]),
        (group_mean, [2.5, 4, 2.5, 4, 4, 2.5, 3, 0]),
        (group_min, [1, 2, 1, 2, 2, 1, 3, 0]),
        (group_max, [4, 5, 4, 5, 5, 4, 3, 0]),
        (group_constant, [False, False, False, False, False, False, True, True]),
    ],
)
def test_statistics_go_back_to_every_row(function, want: list) -> None:
    assert function(X, GROUP, VALID).tolist() == want


def test_count() -> None:
    assert group_count(GROUP, VALID).tolist() == [2, 3, 2, 3, 3, 2, 1, 0]


def test_std() -> None:
    sample, population = group_std(X, GROUP, VALID), group_std(X, GROUP, VALID, ddof=0)
    assert sample[0].item() == pytest.approx(3 / 2**0.5) and population[0].item() == pytest.approx(1.5)
    assert sample[1].item() == pytest.approx(3**0.5) and population[1].item() == pytest.approx(2**0.5)
    assert sample[6:].tolist() == population[6:].tolist() == [0, 0]


def test_std_of_a_constant_float32_group_is_exactly_zero() -> None:
    x = torch.full((16,), 0.7)
    assert x.std() > 0, "the trap: rounding leaves a spread"
    ones = torch.ones(16, dtype=torch.bool)
    assert group_std(x, torch.zeros(16, dtype=torch.int64), ones).tolist() == [0] * 16
    assert group_constant(x, torch.zeros(16, dtype=torch.int64), ones).all()


def test_no_rows() -> None:
    empty, nothing = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    assert group_mean(empty, nothing, nothing.bool()).shape == (0,)
    assert group_max(empty, nothing, nothing.bool()).shape == (0,)
