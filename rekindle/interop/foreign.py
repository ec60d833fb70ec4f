"""What another trainer's files say of a run, in our words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow


@dataclass(frozen=True)
class ForeignRun:
    """A run of another trainer. steps: metrics by step, each with its "step"; tables: step -> its rollouts, a row a
    response; config: what its files say of its options."""

    steps: list[dict[str, float]]
    tables: dict[int, pyarrow.Table]
    config: dict[str, Any]
