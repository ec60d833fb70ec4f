"""The entropy law R = -a e^H + b (arXiv 2505.22617): what score the entropy that is left can still buy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Array = Float[np.ndarray, " N"]


@dataclass(frozen=True)
class Law:
    """R = -a e^H + b, with H in nats a token and R a share."""

    a: float
    b: float

    @property
    def ceiling(self) -> float:
        """The score where no entropy is left."""
        return self.b - self.a

    def score(self, entropy: Array) -> Array:
        """R at each entropy."""
        return self.b - self.a * np.exp(entropy)


def fit_law(entropy: Array, score: Array) -> Law:
    """Linear least squares on x = -e^H, at two different entropies or more."""
    columns = np.stack([-np.exp(entropy), np.ones_like(entropy)], axis=1)
    (a, b), *_ = np.linalg.lstsq(columns, score, rcond=None)
    return Law(float(a), float(b))
