"""An exponential decay of entropy over steps by least squares, and what bootstraps it and the entropy law.

The law (`train/law.py`) knows no step: the decay H(t) = floor + (start - floor) e^(-t/tau) is ours, and joins the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from rekindle.train.law import Array

Fit = TypeVar("Fit")

TAUS = 300
"""Time constants tried, from half a step to ten times the span of the steps, evenly in the logarithm."""
ROUNDS = 3
HUBER = 1.345
"""Residuals beyond so many robust standard deviations count less (Huber; 95 % efficient on normal errors)."""
NORMAL_MAD = 1.4826
"""Standard deviation of a normal variable over its median absolute deviation."""


@dataclass(frozen=True)
class Decay:
    """H(t) = floor + (start - floor) e^(-(t - first)/tau), t in steps; `start` is H at the step `first`."""

    floor: float
    start: float
    tau: float
    first: float

    def entropy(self, step: Array) -> Array:
        """H at each step."""
        return self.floor + (self.start - self.floor) * np.exp(-(step - self.first) / self.tau)

    def reaches(self, level: float) -> float:
        """The step from which H is below `level`: `first` where it starts below, inf where it never falls so far."""
        if self.start < level:
            return self.first if self.floor < level else math.inf
        if self.floor >= level:
            return math.inf
        return self.first + self.tau * math.log((self.start - self.floor) / (level - self.floor))


def fit_decay(step: Array, entropy: Array) -> Decay:
    """The decay of least squares over a grid of tau, floor at 0 or more; outliers weigh less (Huber, three rounds)."""
    taus = np.geomspace(0.5, 10 * float(step[-1] - step[0]), TAUS)
    shape = np.exp(-(step - step[0])[None] / taus[:, None])
    weight = np.ones_like(entropy)
    found = Decay(0.0, float(entropy[0]), 1.0, float(step[0]))
    for _ in range(ROUNDS):
        floor, height, best = _best_line(shape, entropy, weight / weight.sum())
        found = replace(found, floor=floor, start=floor + height, tau=float(taus[best]))
        weight = huber_weights(entropy - found.entropy(step))
    return found


def _best_line(shape: Float[np.ndarray, "K N"], y: Array, weight: Array) -> tuple[float, float, int]:
    """(floor, height, row) of the least weighted squares of y - floor - height * shape[row], with floor >= 0.

    From the moments alone; `weight` sums to 1. A row whose free fit has its floor below 0 is fitted through 0.
    """
    mean, square, cross = shape @ weight, shape**2 @ weight, shape @ (weight * y)
    level, power = float(weight @ y), float(weight @ y**2)
    variance, covariance = np.maximum(square - mean**2, 1e-300), cross - mean * level
    free = covariance / variance
    below = level - free * mean < 0
    height = np.where(below, cross / square, free)
    floor = np.where(below, 0.0, level - free * mean)
    error = power - np.where(below, cross**2 / square, level**2 + covariance**2 / variance)
    best = int(error.argmin())
    return float(floor[best]), float(height[best]), best


def huber_weights(residual: Array) -> Array:
    """Weight 1 up to HUBER robust standard deviations, falling as 1/|residual| beyond; all 1 where the spread is 0."""
    deviation = NORMAL_MAD * float(np.median(np.abs(residual)))
    if deviation <= 1e-12:
        return np.ones_like(residual)
    return np.minimum(1.0, HUBER * deviation / np.maximum(np.abs(residual), 1e-300))


def bootstrap(
    fitted: Array, residual: Array, parameters: int, fit: Callable[[Array], Fit], draws: int, seed: int
) -> list[Fit]:
    """Fits of `fitted` plus resampled residuals, `draws` times.

    Residuals are centred, scaled by sqrt(n / (n - parameters)), and drawn in circular blocks of n^(1/3): the errors of
    neighbouring steps are related, and single draws would give intervals that are too narrow.
    """
    n = len(residual)
    scaled = (residual - residual.mean()) * math.sqrt(n / max(1, n - parameters))
    length = math.ceil(n ** (1 / 3))
    random = np.random.default_rng(seed)
    starts = random.integers(n, size=(draws, -(-n // length)))
    index = ((starts[:, :, None] + np.arange(length)) % n).reshape(draws, -1)[:, :n]
    return [fit(fitted + scaled[row]) for row in index]


def interval(values: Array, level: float) -> tuple[float, float]:
    """The central interval that holds `level` of the values; inf counts as larger than all."""
    ordered, tail = np.sort(values), (1 - level) / 2
    low, high = math.floor(tail * (len(ordered) - 1)), math.ceil((1 - tail) * (len(ordered) - 1))
    return float(ordered[low]), float(ordered[high])


def rmse(predicted: Array, actual: Array) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(np.mean((predicted - actual) ** 2)))
