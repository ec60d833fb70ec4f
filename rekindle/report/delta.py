"""The change of one tensor: how many entries stayed, its rank, and how update sets overlap (arXiv 2505.11711)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekindle.errors import InputError

ENERGY = 0.9


@dataclass(frozen=True)
class Count:
    """How many entries there are, how many of them lie within each tolerance of no change, and the largest change."""

    size: int = 0
    within: tuple[int, ...] = ()
    largest: float = 0.0

    def __add__(self, other: Count) -> Count:
        within = tuple(a + b for a, b in zip(self.within or (0,) * len(other.within), other.within, strict=True))
        return Count(self.size + other.size, within, max(self.largest, other.largest))

    @property
    def sparsity(self) -> tuple[float, ...]:
        """The share within each tolerance."""
        return tuple(n / self.size for n in self.within)


@dataclass(frozen=True)
class Rank:
    """Of one matrix or the mean over matrices: rank over the smaller side, stable rank ||D||_F^2 / ||D||_2^2, and the
    number of singular values that hold 90 % of the energy. All 0 where nothing changed."""

    share: float
    stable: float
    energy: float


@dataclass(frozen=True)
class Overlap:
    """Update sets I1 and I2: o1 = |both| / |I1|, o2 = |both| / |I2|, Jaccard; None where a set is empty.

    chance_*: expected for independent sets, given the density of the whole; tensor_*: given that of every tensor.
    """

    o1: float | None
    o2: float | None
    jaccard: float | None
    chance_o1: float | None
    chance_o2: float | None
    tensor_o1: float | None
    tensor_o2: float | None


def difference(name: str, before: Tensor, after: Tensor, dtype: torch.dtype) -> Float[Tensor, "..."]:
    """after - before, both cast to `dtype` and subtracted in it, as float32; InputError where it is not finite."""
    delta = (after.to(dtype) - before.to(dtype)).float()
    if not delta.isfinite().all():
        raise InputError(
            f"tensor '{name}' holds NaN or infinity: one of the models is broken; measure another checkpoint"
        )
    return delta


def count_within(delta: Float[Tensor, "..."], tolerances: Sequence[float]) -> Count:
    """Entries within each tolerance."""
    size = delta.abs()
    return Count(delta.numel(), tuple(int((size <= t).sum()) for t in tolerances), float(size.max()))


def matrices(delta: Float[Tensor, "..."]) -> Iterator[Float[Tensor, "m n"]]:
    """The matrices in a tensor of two axes or more: stacks, of experts for one, slice by slice."""
    yield from delta.reshape(-1, *delta.shape[-2:])


def matrix_rank(delta: Float[Tensor, "m n"]) -> Rank:
    """Rank with the tolerance sigma_max * max(m, n) * eps of float32; all 0 for a zero matrix."""
    values = torch.linalg.svdvals(delta)
    if values[0] == 0:
        return Rank(0.0, 0.0, 0.0)
    rank = int((values > values[0] * max(delta.shape) * torch.finfo(torch.float32).eps).sum())
    energy = values.double().square()
    held = energy.cumsum(0) / energy.sum()
    return Rank(rank / min(delta.shape), float(energy.sum() / energy[0]), float((held < ENERGY).sum() + 1))


def intersection(one: Bool[Tensor, "..."], two: Bool[Tensor, "..."]) -> tuple[int, int, int, int]:
    """(entries, |I1|, |I2|, |I1 and I2|) of one tensor's update sets."""
    return one.numel(), int(one.sum()), int(two.sum()), int((one & two).sum())


def overlap(rows: Sequence[tuple[int, int, int, int]]) -> Overlap:
    """The overlap of two update sets from (entries, |I1|, |I2|, |both|) of every tensor, beside its chance levels."""
    size, one, two, both = (sum(column) for column in zip(*rows, strict=True))
    expected = sum(k1 * k2 / n for n, k1, k2, _ in rows)

    def share(part: int | float, whole: int) -> float | None:
        return part / whole if whole else None

    return Overlap(
        o1=share(both, one),
        o2=share(both, two),
        jaccard=share(both, one + two - both),
        chance_o1=two / size if one else None,
        chance_o2=one / size if two else None,
        tensor_o1=share(expected, one),
        tensor_o2=share(expected, two),
    )
