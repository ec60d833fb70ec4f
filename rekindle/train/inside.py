"""A checkpoint inside a step: the batch that its remaining updates descend on, and what the step has counted so far."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from rekindle.core.opened import Opened
from rekindle.core.types import Batch, Metrics
from rekindle.errors import GuardStop
from rekindle.tokens.rollouts import PromptRows
from rekindle.train.credits import Credits
from rekindle.train.quarantine import batch_tensors

if TYPE_CHECKING:
    from rekindle.train.run import Run

_FILE = "opened.safetensors"


def save_opened(folder: Path, opened: Opened, run: Run) -> dict[str, Any]:
    """Write the tensors of the step's batch; gives what JSON holds of the rest."""
    batch = opened.batch
    rows = {name: _ids(value) for name, value in batch.extra.items() if not isinstance(value, Tensor)}
    credits = run.live.get("credits", Credits()).tensors()
    save_file(batch_tensors(batch) | credits, folder / _FILE)
    counted = {"metrics": opened.metrics, "observed": run.observed, "drawn": run.drawn}
    return {"done": opened.done, **counted, "prompt": _ids(batch.prompt), "rows": rows}


def load_opened(folder: Path, told: dict[str, Any] | None, run: Run) -> None:
    """Give the run the step that it was in, where the checkpoint stands inside one."""
    if told is None:
        return
    tensors = load_file(folder / _FILE)
    run.live["credits"] = Credits.of({name: tensors.pop(name) for name in list(tensors) if name.startswith("credit.")})
    own = {name: tensors.pop(name) for name in [name for name in tensors if not name.startswith("extra.")]}
    extra: dict[str, Any] = {name.removeprefix("extra."): tensor for name, tensor in tensors.items()}
    extra |= {name: _rows(ids) for name, ids in told["rows"].items()}
    batch = Batch(
        action=own["action"],
        mask=own["mask"],
        uid=own["uid"],
        group=own["group"],
        success=own["success"],
        graded=own["graded"],
        score=own["score"],
        key=own["key"],
        prompt=_rows(told["prompt"]),
        extra=extra,
    )
    run.reopened = Opened(batch=batch, metrics=_pairs(told["metrics"]), done=int(told["done"]))
    run.reopened_counts = _pairs(told["observed"]), int(told["drawn"])


def _pairs(told: dict[str, list[float]]) -> Metrics:
    return {name: (value, count) for name, (value, count) in told.items()}


def _ids(rows: Any) -> list[list[int]]:
    if not isinstance(rows, PromptRows):
        raise GuardStop(f"a column of {type(rows).__name__} cannot be saved inside a step: stop the run between steps")
    return [list(ids) for ids in rows.ids]


def _rows(ids: list[list[int]]) -> PromptRows:
    return PromptRows(tuple(tuple(one) for one in ids))
