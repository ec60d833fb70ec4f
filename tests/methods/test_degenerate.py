"""Every method on batches and rollouts that teach nothing: finite, and exactly zero where it must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rekindle.core.groups import group_constant
from rekindle.core.types import Batch
from rekindle.errors import GuardStop
from tests.methods.made import group_rollouts
from tests.methods.records import labels, record_of
from tests.methods.stage import by_descend, staged, table_stage

every = pytest.mark.parametrize("name", labels())

DEGENERATE: dict[str, Callable[[Batch], Batch]] = {
    "all success": lambda b: replace(b, success=torch.ones_like(b.success), score=torch.ones_like(b.score)),
    "all fail": lambda b: replace(b, success=torch.zeros_like(b.success), score=torch.zeros_like(b.score)),
    "group of one": lambda b: replace(b, group=b.uid),
    "nothing graded": lambda b: replace(b, graded=torch.zeros_like(b.graded), success=torch.zeros_like(b.success)),
    "empty mask": lambda b: replace(b, mask=torch.zeros_like(b.mask)).with_columns(
        **{n: torch.zeros_like(v) for n, v in b.extra.items() if isinstance(v, Tensor) and v.dim() == 2}
    ),
}


@every
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_batches_are_finite(name: str, case: str) -> None:
    stage, batch = staged(name, torch.float64, table=True)
    batch = stage.method.prepared(DEGENERATE[case](batch))
    if stage.method.advantage.needs_group and group_constant(batch.score, batch.group, batch.graded).all():
        assert (stage.method.advantage(batch) == 0).all()
    batch = stage.method.credit(DEGENERATE[case](batch))
    for two_pass in (False, True) if stage.method.separable else (True,):
        got = by_descend(stage, batch, 3, two_pass)
        assert got.isfinite().all()
        if case in ("nothing graded", "empty mask"):
            assert (got == 0).all()


@every
@pytest.mark.parametrize("g", [2, 3])
def test_degenerate_rollouts_are_finite(name: str, g: int) -> None:
    """Every prompt is all right (2), or says nothing (3): a finite step, or a stop in a sentence."""
    method = record_of(name)
    stage = table_stage(method)
    rows = group_rollouts(g)
    stage.source = lambda n: replace(rows, group=rows.group + 10 * n, uid=rows.uid + 100 * n)
    try:
        method.step(stage)
    except GuardStop as stop:
        assert "collect.select.max_rounds" in str(stop)
        return
    assert stage.updates and all(p.isfinite().all() for p in stage.parameters)
