"""What another trainer's files say of a run, in our words."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pyarrow

LARGEST = sys.float_info.max


@dataclass(frozen=True)
class ForeignRun:
    """A run of another trainer. steps: metrics by step, each with its "step"; tables: step -> its rollouts, a row a
    response; config: what its files say of its options."""

    steps: list[dict[str, float]]
    tables: dict[int, pyarrow.Table]
    config: dict[str, Any]


def is_number(value: Any) -> bool:
    """Whether a value that was logged is a number: no truth value, and neither NaN nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
