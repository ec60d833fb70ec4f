"""Digests tell tensors apart, by one bit, and do not depend on how they are cut."""

from __future__ import annotations

import torch

from rekindle.core.ranks import Alone
from rekindle.tokens.sampling.fingerprints import exact
from rekindle.train.digests import differing, digests


def test_one_bit_of_one_element_changes_its_tensors_digest_alone() -> None:
    named = [("a", torch.randn(5, 3)), ("b", torch.randn(7))]
    before = digests(named, Alone())
    bits = named[0][1].view(-1).view(torch.int32)
    for i in (0, 7, 14):
        bits[i] ^= 1
        assert differing(before, digests(named, Alone())) == ["a"]
        bits[i] ^= 1
    assert digests(named, Alone()) == before and all(len(value) == 16 for value in before.values())


def test_swapped_elements_and_missing_tensors_are_told() -> None:
    value = torch.tensor([1.0, 2.0])
    assert exact(value) != exact(value.flip(0))
    assert differing({"a": "0", "b": "1"}, {"b": "1", "c": "2"}) == ["a", "c"]


def test_pieces_add_up_to_the_whole() -> None:
    value = torch.randn(11, 4, dtype=torch.float64)
    pieces = sum(exact(value[i : i + 3], i * 4) for i in range(0, 11, 3))
    assert pieces % 2**64 == exact(value) % 2**64
