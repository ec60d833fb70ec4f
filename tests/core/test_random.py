"""Counter-based uniforms: committed values, uniformity, and independence of how they are asked for."""

from __future__ import annotations

import torch

from rekindle.core.random import pack_key, uniforms

MASK = 2**64 - 1
COMMITTED_KEY = 2558736989570252433
COMMITTED = [[0.7961956752947814, 0.16242086080033458], [0.4175574609573718, 0.8570777977339641]]


def splitmix(state: int) -> int:
    """The published splitmix64 in Python integers."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_splitmix_reference_is_the_published_one():
    # First outputs for seed 1234567, as published with the algorithm.
    state = 1234567
    assert splitmix(state) == 6457827717110365317
    assert splitmix(state + 0x9E3779B97F4A7C15) == 3203168211198807973


def test_equals_integer_arithmetic():
    key, uids = pack_key(3, 1, 4), [0, 5, 2**40]
    got = uniforms(key, torch.tensor(uids), width=4)
    packed = splitmix(splitmix(splitmix(3) + 1) + 4)
    assert int(key) % 2**64 == packed
    for row, uid in zip(got.tolist(), uids, strict=True):
        seed = splitmix((splitmix(packed) + uid) & MASK)
        assert row == [((splitmix((seed + t * 0x9E3779B97F4A7C15) & MASK) >> 14) + 0.5) / 2**50 for t in range(4)]


def test_committed_values():
    key = pack_key(0, 0, 0)
    assert int(key) == COMMITTED_KEY
    assert uniforms(key, torch.tensor([0, 1]), width=2).tolist() == COMMITTED


def test_uniform_on_the_open_interval():
    draws = uniforms(pack_key(7, 0, 0), torch.arange(1000), width=100)
    assert draws.dtype == torch.float64
    assert float(draws.min()) > 0.0 and float(draws.max()) < 1.0
    for bins in (16, 100):
        counts = torch.bincount((draws.flatten() * bins).long(), minlength=bins).double()
        expected = draws.numel() / bins
        statistic = float(((counts - expected) ** 2 / expected).sum())
        degrees = bins - 1
        assert abs(statistic - degrees) < 4 * (2 * degrees) ** 0.5


def test_neighbours_are_uncorrelated():
    draws = uniforms(pack_key(7, 0, 0), torch.arange(400), width=400) - 0.5
    limit = 4 / (400 * 400) ** 0.5
    for shifted in (draws.roll(1, 0), draws.roll(1, 1), draws.roll((1, 1), (0, 1))):
        assert abs(float((draws * shifted).mean() * 12)) < limit


def test_row_order_batching_and_slices_do_not_matter():
    key, uid = pack_key(1, 2, 3), torch.tensor([9, 4, 1000003, -5])
    whole = uniforms(key, uid, width=12)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(uniforms(key, uid[order], width=12), whole[order])
    assert torch.equal(torch.cat([uniforms(key, uid[:1], width=12), uniforms(key, uid[1:], width=12)]), whole)
    assert torch.equal(uniforms(key, uid, width=5, offset=7), whole[:, 7:])
    assert torch.equal(uniforms(key, uid, width=1, offset=torch.arange(4)), whole[range(4), range(4)][:, None])
    assert uniforms(key, uid[:0], width=3).shape == (0, 3)


def test_keys_differ_in_each_argument():
    grid = [(s, t, u) for s in range(8) for t in range(8) for u in range(8)] + [(-1, 0, 0), (2**64 + 8, 0, 0)]
    assert len({int(pack_key(*entry)) for entry in grid}) == len(grid)
    uid = torch.arange(50)
    a, b = (uniforms(pack_key(0, 0, u), uid, width=50) for u in (0, 1))
    assert not bool((a == b).any())
