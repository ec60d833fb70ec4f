"""The factors of low-rank adapters as singular values: the directions stay, and a few numbers a matrix are searched.

Delta W = B A, each factor by its own thin singular value decomposition (ESSA, arXiv 2507.04453).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rekindle.core.evolution import Point
from rekindle.errors import InputError

KEPT = "factors"
"""`run.kept` holds `factors.NUMBER.A.u`, `.s`, `.v` and the same of B, in float64."""


@dataclass(frozen=True, eq=False)
class Basis:
    """A matrix as u diag(s) v, the values descending."""

    u: Float64[Tensor, "M R"]
    s: Float64[Tensor, " R"]
    v: Float64[Tensor, "R N"]

    @staticmethod
    def of(matrix: Float[Tensor, "M N"]) -> Basis:
        """The thin decomposition, in float64 on the CPU."""
        u, s, v = torch.linalg.svd(matrix.detach().cpu().double(), full_matrices=False)
        return Basis(u.contiguous(), s.contiguous(), v.contiguous())

    def moved(self, offsets: Float64[Tensor, " K"]) -> Float64[Tensor, "M N"]:
        """The matrix whose K largest values are changed by `offsets`; they may become negative."""
        s = self.s.clone()
        s[: len(offsets)] += offsets
        return (self.u * s) @ self.v


def count_of(share: float, rank: int) -> int:
    """How many values of a factor are searched: floor(share * rank). InputError where that is none."""
    count = math.floor(share * rank + 1e-9)  # 0.7 * 10 and the like end a little below
    if count < 1:
        least = math.ceil(100 / rank) / 100
        raise InputError(
            f"the singular-value count is zero: space.share={share:g} of rank {rank} is less than one value; set "
            f"space.share={least:g} or more, or a higher rank"
        )
    return count


@dataclass(frozen=True, eq=False)
class Factors:
    """The searched values of all factors: of each matrix those of A, then those of B."""

    tensors: tuple[Tensor, ...]
    bases: tuple[Basis, ...]
    share: float

    @property
    def counts(self) -> list[int]:
        """Values of each factor."""
        return [count_of(self.share, len(basis.s)) for basis in self.bases]

    @property
    def size(self) -> int:
        """All of them."""
        return sum(self.counts)

    @property
    def scale(self) -> float:
        """The mean of the factors' largest values."""
        return torch.stack([basis.s[0] for basis in self.bases]).mean().item()

    def put(self, point: Point) -> None:
        """Change the adapter's tensors in place; the directions, the base and the adapter's scale stay."""
        with torch.no_grad():
            parts = point.split(self.counts)
            for tensor, basis, offsets in zip(self.tensors, self.bases, parts, strict=True):
                tensor.copy_(basis.moved(offsets))


@dataclass(frozen=True, kw_only=True)
class SingularValues:
    """Search offsets of the largest singular values of every factor of the run's adapter; share: of its rank, 0 to 1.

    The decomposition is made once and kept with the run: equal values have no unique directions.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"the share of singular values lies above 0 and up to 1, not {self.share}")

    def __call__(self, run: Any) -> Factors:
        """The factors of the run's adapter, A and B of each layer in turn. InputError where there is none."""
        named: Mapping[str, Tensor] = {
            f"{KEPT}.{i}.{name}": tensor
            for i, pair in enumerate(run.factors())
            for name, tensor in zip("AB", pair, strict=True)
        }
        if not named:
            raise InputError("singular values are searched in an adapter, and there is none: add --lora RANK")
        if f"{next(iter(named))}.u" not in run.kept:
            run.kept |= run.ranks.exchange(_decomposed(named) if run.ranks.index == 0 else {})[0]
        bases = [Basis(*(run.kept[f"{name}.{part}"] for part in "usv")) for name in named]
        return Factors(tuple(named.values()), tuple(bases), self.share)

    def told(self, run: Any) -> tuple[str, ...]:
        """A warning where the adapter says nothing yet."""
        factors: Sequence[tuple[Tensor, Tensor]] = run.factors()
        if any(b.count_nonzero() for _, b in factors):
            return ()
        return (
            "the adapter's B is all zero (no warm start): its directions mean nothing, so that candidates hardly "
            "differ in what they are worth; train an adapter first, and give that as --model FOLDER",
        )


def _decomposed(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    bases = {name: Basis.of(tensor) for name, tensor in named.items()}
    return {f"{name}.{part}": value for name, basis in bases.items() for part, value in vars(basis).items()}
