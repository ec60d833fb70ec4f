"""CMA-ES (Hansen, arXiv 1604.00772) by the package `cmaes`: a search that learns its own steps from a ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from rekindle.core.evolution import Point
from rekindle.errors import InputError

FULL = 500
"""Numbers up to which "auto" learns all covariances: `cmaes` holds `population` matrices of that width at a time."""
LEAST = 4
"""Candidates: two of them are parents. With one parent the covariance has no learning rate."""


@dataclass(frozen=True, kw_only=True)
class CMA:
    """CMA-ES from the middle of what is searched.

    sigma: the first step size, as a share of the scale of what is searched. covariance: "full" learns how all pairs of
    numbers go together, "separable" one variance each (Ros and Hansen, 2008); "auto" is full up to 500 numbers.
    """

    population: int
    sigma: float
    covariance: Literal["auto", "full", "separable"] = "auto"

    def __post_init__(self) -> None:
        if self.population < LEAST:
            raise ValueError(
                f"CMA-ES takes a population of {LEAST} or more, not {self.population}: 24 and more is usual"
            )
        if not self.sigma > 0:
            raise ValueError(f"the first step size is a share of the scale above 0, not {self.sigma}: 0.2 is usual")

    def __call__(self, size: int, scale: float, seed: int) -> CMASearch:
        """A search of `size` numbers. InputError where the package is missing."""
        cmaes = need_cmaes()
        separable = self.covariance == "separable" or (self.covariance == "auto" and size > FULL)
        kind = cmaes.SepCMA if separable else cmaes.CMA
        start = torch.zeros(size, dtype=torch.float64).numpy()
        return CMASearch(kind(mean=start, sigma=self.sigma * scale, seed=seed, population_size=self.population))


def need_cmaes() -> Any:
    """The package `cmaes`; InputError that names the extra where it is not installed."""
    try:
        import cmaes
    except ImportError:
        raise InputError("CMA-ES needs cmaes, which is not installed: pip install 'rekindle[train]'") from None
    return cmaes


@dataclass(frozen=True, eq=False)
class CMASearch:
    """A search under way. inner: the package's optimiser, which minimises."""

    inner: Any

    @property
    def generation(self) -> int:
        """How often it was told."""
        return self.inner.generation

    @property
    def mean(self) -> Point:
        """Where it stands."""
        return torch.from_numpy(self.inner.mean.copy())

    @property
    def spread(self) -> float:
        """The step size."""
        return float(self.inner._sigma)  # the package names it nowhere else

    def ask(self) -> list[Point]:
        """`population` candidates."""
        return [torch.from_numpy(self.inner.ask()) for _ in range(self.inner.population_size)]

    def tell(self, points: Sequence[Point], fitness: Sequence[float]) -> None:
        """The package sorts by value and keeps the order of equal ones: the candidate that came first is better."""
        self.inner.tell([(point.numpy(), -value) for point, value in zip(points, fitness, strict=True)])
