"""A method of your own in one file: `rekindle train examples/02_your_own_method.py:shy_grpo --steps 20`.

GRPO, but an advantage is scaled down where its whole group is nearly sure: A * sqrt(1 - majority share of successes).
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from rekindle.core.groups import group_mean
from rekindle.core.method import PolicyGradient
from rekindle.core.types import Batch
from rekindle.methods import grpo


@dataclass(frozen=True)
class Shy:
    """modulate part: (A [B T], batch) -> A [B T]."""

    power: float = 0.5

    def __call__(self, advantage: Float[Tensor, "B T"], batch: Batch) -> Float[Tensor, "B T"]:
        """A * (1 - share)^power, with share the larger of the group's shares of right and of wrong answers."""
        right = group_mean(batch.success.to(advantage.dtype), batch.group, batch.graded)
        doubt = 1 - right.maximum(1 - right)
        return advantage * (doubt**self.power)[:, None]


def shy_grpo() -> PolicyGradient:
    """GRPO with one more part."""
    return grpo.method().replace(modulate=(Shy(),))
