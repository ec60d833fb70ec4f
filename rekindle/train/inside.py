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
from rekindle.train.matching import SAID, said_before, said_tensors
from rekindle.train.quarantine import batch_tensors, own

if TYPE_CHECKING:
    from rekindle.train.run import Run

_FILE = "opened.safetensors"


def save_opened(folder: Path, opened: Opened, run: Run) -> dict[str, Any]:
    """Write the tensors of the step's batch; gives what JSON holds of the rest."""
    batch = opened.batch
    rows = {name: _ids(value) for name, value in batch.extra.items() if not isinstance(value, Tensor)}
    more = run.live.get("credits", Credits()).tensors() if opened.done else said_tensors(run)
    save_file(batch_tensors(batch) | {name: own(value) for name, value in more.items()}, folder / _FILE)
    counted = {"metrics": opened.metrics, "observed": run.observed, "drawn": run.drawn}
    return {"done": opened.done, **counted, "prompt": _ids(batch.prompt), "rows": rows}


def load_opened(folder: Path, told: dict[str, Any] | None, run: Run) -> None:
    """Give the run the step that it was in, where the checkpoint stands inside one."""
    if told is None:
        return
    tensors = load_file(folder / _FILE)
    run.live["credits"] = Credits.of(_taken(tensors, "credit."))
    said = _taken(tensors, f"{SAID}.")
    if said:
        run.live[SAID] = said_before(said)
    extra: dict[str, Any] = {name.removeprefix("extra."): value for name, value in _taken(tensors, "extra.").items()}
    extra |= {name: _rows(ids) for name, ids in told["rows"].items()}
    batch = Batch(
        action=tensors["action"],
        mask=tensors["mask"],
        uid=tensors["uid"],
        group=tensors["group"],
        success=tensors["success"],
        graded=tensors["graded"],
        score=tensors["score"],
        key=tensors["key"],
        prompt=_rows(told["prompt"]),
        extra=extra,
    )
    run.reopened = Opened(batch=batch, metrics=_pairs(told["metrics"]), done=int(told["done"]))
    run.reopened_counts = _pairs(told["observed"]), int(told["drawn"])


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}


def _pairs(told: dict[str, list[float]]) -> Metrics:
    return {name: (value, count) for name, (value, count) in told.items()}


def _ids(rows: Any) -> list[list[int]]:
    if not isinstance(rows, PromptRows):
        raise GuardStop(f"a column of {type(rows).__name__} cannot be saved inside a step: stop the run between steps")
    return [list(ids) for ids in rows.ids]


def _rows(ids: list[list[int]]) -> PromptRows:
    return PromptRows(tuple(tuple(one) for one in ids))
