"""What every response taught: its advantage, and how far each of its tokens had moved, a parquet file a step."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from rekindle.core.method import PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.types import Batch, Now
from rekindle.train.archive import keeps_rollouts
from rekindle.train.durable import make, write_whole

if TYPE_CHECKING:
    from rekindle.train.run import Run

BOUNDS = b"rekindle.clip"
"""Key of the file's metadata: the bounds of the ratio of a clipped objective, "LOW HIGH"."""
DIGITS = 4
"""Decimals that advantages of single tokens and ratios are rounded to: enough for a page; no update reads them."""


@dataclass
class Credits:
    """By the response's uid, the columns [T] of the last update that it was in: advantage, ratio, and marked tokens."""

    rows: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def add(self, part: Batch, now: Now) -> None:
        """Note an update. `part` has `logp_old`; `now` is what the policy said before the update's own step."""
        place = torch.arange(1, part.mask.shape[1] + 1)
        mask = part.mask.cpu()
        size = torch.where(mask, place, 0).amax(dim=1).tolist() if len(place) else [0] * len(mask)
        ratio = (now.logp - part.logp_old).exp().where(part.mask, 1.0)
        columns = {"advantage": part.advantage, "ratio": ratio}
        if "echo" in part.extra:
            columns["mark"] = part.column("echo") > 0
        shown = {name: values.detach().float().cpu() for name, values in columns.items()} | {"mask": mask}
        for i, uid in enumerate(part.uid.tolist()):
            self.rows[uid] = {name: values[i, : size[i]].clone() for name, values in shown.items()}

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint inside a step holds of it."""
        return {f"credit.{uid}.{name}": values for uid, row in self.rows.items() for name, values in row.items()}

    @staticmethod
    def of(tensors: dict[str, Tensor]) -> Credits:
        """From what `tensors` gave."""
        rows: dict[int, dict[str, Tensor]] = {}
        for key, values in tensors.items():
            _, uid, name = key.split(".")
            rows.setdefault(int(uid), {})[name] = values
        return Credits(rows)


def note_credits(run: Run, part: Batch, now: Now) -> None:
    """Keep what an update did with its rows, where this rank writes the step's rollouts down."""
    if run.folder is not None and keeps_rollouts(run, run.step_index + 1):
        run.live.setdefault("credits", Credits()).add(part, now)


def write_credits(folder: Path, step: int, run: Run) -> Path | None:
    """Write `folder/step-NNNNNN.parquet`, whole or not at all; None where the step had no update."""
    found: Credits = run.live.pop("credits", Credits())
    if not found.rows:
        return None
    make(folder)
    rows = [found.rows[uid] for uid in sorted(found.rows)]
    columns: dict[str, pa.Array] = {"uid": pa.array(sorted(found.rows))}
    columns["advantage"] = pa.array([_mean(row["advantage"], row["mask"]) for row in rows])
    if not all(_constant(row["advantage"], row["mask"]) for row in rows):
        columns["token_advantage"] = _lists([row["advantage"] for row in rows])
    if any((row["ratio"] != 1).any() for row in rows):
        columns["token_ratio"] = _lists([row["ratio"] for row in rows])
    if any("mark" in row for row in rows):
        columns["token_mark"] = pa.array([row["mark"].bool().tolist() for row in rows], pa.list_(pa.bool_()))
    table, place = pa.table(columns), folder / f"step-{step:06d}.parquet"
    bounds = _bounds(run)
    if bounds is not None:
        table = table.replace_schema_metadata({BOUNDS: "{} {}".format(*bounds).encode()})
    write_whole(place, lambda partial: pq.write_table(table, partial, compression="zstd"))
    return place


def _bounds(run: Run) -> tuple[float, float] | None:
    """The bounds of each token's ratio that this step clipped by; None where its objective has none of that kind."""
    record = run.record
    if not isinstance(record, PolicyGradient) or not isinstance(record.objective, Clip):
        return None
    if record.objective.level != "token":
        return None
    low, high = record.objective.low, record.objective.high
    return (low, high) if isinstance(low, float | int) and isinstance(high, float | int) else None


def _mean(values: Float[Tensor, " T"], mask: Tensor) -> float:
    return float(values[mask].double().mean()) if mask.any() else 0.0


def _constant(values: Float[Tensor, " T"], mask: Tensor) -> bool:
    live = values[mask]
    return not len(live) or bool(live.max() == live.min())


def _lists(rows: list[Tensor]) -> pa.Array:
    sizes = torch.tensor([0, *map(len, rows)]).cumsum(0).int().numpy()
    return pa.ListArray.from_arrays(
        pa.array(sizes), pa.array(torch.cat(rows).double().round(decimals=DIGITS).float().numpy())
    )
