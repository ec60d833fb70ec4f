"""Counter-based uniforms: a pure hash of (key, uid, position), so row order, batching and ranks cannot change a draw.

The hash is splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014) in wrapping int64.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_BITS = 50  # two bits short of float64's mantissa: u * total stays strictly below total after rounding


def _shift(x: Int[Tensor, "*S"], by: int) -> Int[Tensor, "*S"]:
    """Logical shift to the right; torch's own is arithmetic on int64."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _mix(x: Int[Tensor, "*S"]) -> Int[Tensor, "*S"]:
    """One splitmix64 output of state `x`: a bijection of the 64-bit integers."""
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _wrap(value: int) -> Tensor:
    """Any Python integer as int64, modulo 2**64."""
    return torch.tensor((value + 2**63) % 2**64 - 2**63, dtype=torch.int64)


def pack_key(seed: int, step: int, update: int) -> Int[Tensor, ""]:
    """(seed, step, update) hashed into one int64 scalar; a change of any one of the three changes the key."""
    return _mix(_mix(_mix(_wrap(seed)) + _wrap(step)) + _wrap(update))


def uniforms(
    key: Int[Tensor, ""], uid: Int[Tensor, " B"], width: int, offset: int | Int[Tensor, ""] | Int[Tensor, " B"] = 0
) -> Float64[Tensor, "B W"]:
    """Uniforms in the open interval (0, 1) for positions offset .. offset + width - 1 of every sequence in `uid`.

    A pure function of (key, uid, position): slices, permutations and batches of the arguments give the same numbers.
    `offset` is one for all rows or one a row. The result lies on `uid`'s device.
    """
    seed = _mix(_mix(key.to(uid.device)) + uid.to(torch.int64))
    start = torch.as_tensor(offset, dtype=torch.int64, device=uid.device).reshape(-1, 1)
    position = start + torch.arange(width, device=uid.device)
    hashed = _mix(seed[:, None] + position * _GOLDEN)
    return (_shift(hashed, 64 - _BITS).to(torch.float64) + 0.5) * 2.0**-_BITS
