"""A row of the comparison: one function of a rival against one part of ours, and what the judge finds on its cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.judge.cases import KINDS
from benchmarks.judge.sides import Said

TOLERANCE = 1e-10  # float64; the largest loss is some hundreds
COMPARED = ("advantage", "loss", "gradient")
Side = Callable[..., Said]  # of a case, and of `pieces` where the row is cut into micro-batches


@dataclass(frozen=True, kw_only=True)
class Row:
    """method: ours; flags and setting: what is set on our side and on the rival's; kinds: the cases it is judged on.

    reason: why the sides differ, "" where they must not. tolerance: above 1e-10 only where the reason says what rounds.
    """

    method: str
    flags: str
    rival: str
    setting: str
    kinds: tuple[str, ...]
    ours: Side
    theirs: Side
    reason: str = ""
    tolerance: float = TOLERANCE


def judge(row: Row, seeds: int) -> dict[str, Any]:
    """The row as stored: largest absolute differences over all cases and seeds, and the verdict."""
    apart: dict[str, float] = {}
    size: dict[str, float] = {}
    for kind in row.kinds:
        for seed in range(seeds):
            case = KINDS[kind](seed)
            ours, theirs = row.ours(case), row.theirs(case)
            for name in COMPARED:
                _compare(name, vars(ours)[name], vars(theirs)[name], apart, size)
    shown = {name: vars(row)[name] for name in ("method", "flags", "rival", "setting", "reason", "tolerance")}
    verdict = "equal" if max(apart.values()) <= row.tolerance else "differs"
    return {**shown, "kinds": list(row.kinds), "difference": apart, "largest": size, "verdict": verdict}


def _compare(name: str, ours: Any, theirs: Any, apart: dict[str, float], size: dict[str, float]) -> None:
    if ours is None or theirs is None:
        return
    a, b = _numbers(ours), _numbers(theirs)
    assert a.isfinite().all() and b.isfinite().all(), f"{name} is not finite"
    apart[name] = max(apart.get(name, 0.0), (a - b).abs().max().item())
    size[name] = max(size.get(name, 0.0), b.abs().max().item())


def _numbers(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)
