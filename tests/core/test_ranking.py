"""The largest tokens of a minibatch: how many, which ones on ties, and independence of the row order."""

from __future__ import annotations

import pytest
import torch

from rekindle.core.ranking import check_share, count_down, count_up, largest


def test_against_a_sort_by_hand() -> None:
    rng = torch.Generator().manual_seed(0)
    for _ in range(30):
        shape = (int(torch.randint(1, 6, (), generator=rng)), int(torch.randint(1, 6, (), generator=rng)))
        values = torch.randint(0, 4, shape, generator=rng).double()  # many ties
        pool = torch.rand(shape, generator=rng) < 0.7
        uid = torch.randperm(50, generator=rng)[: shape[0]]
        count = int(torch.randint(0, 12, (), generator=rng))
        spots = [(-values[i, t].item(), int(uid[i]), t, i) for i, t in pool.nonzero().tolist()]
        want = {(i, t) for _, _, t, i in sorted(spots)[:count]}
        got = largest(values.masked_fill(~pool, float("nan")), pool, uid, count)
        assert {(i, t) for i, t in got.nonzero().tolist()} == want
        order = torch.randperm(shape[0], generator=rng)
        assert torch.equal(largest(values[order], pool[order], uid[order], count), got[order])


def pool_of(size: int) -> torch.Tensor:
    return torch.ones(1, size, dtype=torch.bool)


def test_counts_round_without_float_noise() -> None:
    assert [count_up(0.2, pool_of(n)) for n in (3, 5, 7, 10, 11)] == [1, 1, 2, 2, 3]
    assert count_up(0.55, pool_of(100)) == 55 and count_up(1.0, pool_of(7)) == 7 and count_up(1e-6, pool_of(7)) == 1
    assert (
        count_down(0.29, pool_of(100)) == 29 and count_down(0.2, pool_of(9)) == 1 and count_down(0.3, pool_of(9)) == 2
    )
    assert count_down(0.0, pool_of(9)) == 0 and count_down(1e-6, pool_of(9)) == 1
    assert count_up(0.2, pool_of(0)) == count_down(0.2, pool_of(0)) == 0


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), 20.0])
def test_a_share_is_a_fraction(bad: float) -> None:
    with pytest.raises(ValueError, match=r"the top share .* divided by 100"):
        check_share("the top share", bad)
    check_share("the top share", 0.0)
    check_share("the top share", 1.0)
