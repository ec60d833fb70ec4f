"""Sign advantage: a right answer counts +1, a wrong one -1, and no baseline is taken: no group is ever silent.

"Gradient Starvation in Binary-Reward GRPO", preprint of 2026; the simplest control for cures of zero-variance groups.
Differs from GRPO in the advantage, which compares nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rekindle.core.advantages import require_finite, spread
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.types import Batch
from rekindle.methods import grpo

CARD = Card(
    title="Sign advantage",
    summary="Advantage 2 * score - 1: no baseline, no group, high variance; a control.",
    authors="authors not known to us",
    year=2026,
    arxiv=None,
    code=None,
    parent="grpo",
    essence=("advantage",),
    status="partial",
    deviations=(
        "Only the abstract was read.",
        "No setting equals GRPO; where half of a group is right, the two differ by the group's std alone.",
    ),
    version=1,
    effects=(
        Effect(
            claim="where most groups are all right, it keeps pushing them and so loses entropy",
            bed="digits",
            metric="entropy",
            more=False,
            bed_options={"solved": 0.8, "steps": 60},
        ),
    ),
)


@dataclass(frozen=True)
class Sign:
    """2 * score - 1: +1 for a right answer, -1 for a wrong one; what a shaped score adds is doubled."""

    needs_group: ClassVar[bool] = False
    positive_signal: ClassVar[bool] = True

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages [B T], 0 off live positions."""
        require_finite(batch)
        return spread(2 * batch.score - 1, batch)


def method() -> PolicyGradient:
    """Sign advantage as a record of parts."""
    return grpo.method().replace(advantage=Sign())
