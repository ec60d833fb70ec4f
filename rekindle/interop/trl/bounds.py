"""The bounds that a trainer of TRL's, plain or ours, clips the ratio of each token at."""

from __future__ import annotations

from typing import Any

from rekindle.core.objectives import Clip

CLIPPED = frozenset({"grpo", "bnpo", "dr_grpo", "dapo", "luspo"})
"""TRL's loss types that clip the ratio at 1 - epsilon and 1 + epsilon_high."""


def token_bounds(trainer: Any) -> tuple[float, float] | None:
    """(low, high), as ratios of tokens. None where the loss clips none, and where it clips the ratio of a sequence.

    Bounds of a sequence's ratio say nothing of the ratios of its tokens, which are all that a recorder has.
    """
    if "method" in vars(trainer):
        return _clip_of(trainer.method.objective)
    if trainer.loss_type not in CLIPPED or trainer.importance_sampling_level != "token":
        return None
    return 1 - trainer.epsilon_low, 1 + trainer.epsilon_high


def _clip_of(objective: Any) -> tuple[float, float] | None:
    if not isinstance(objective, Clip) or objective.level != "token":
        return None
    low, high = objective.low, objective.high
    return (low, high) if isinstance(low, float | int) and isinstance(high, float | int) else None
