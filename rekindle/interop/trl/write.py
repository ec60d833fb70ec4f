"""Tables of rollouts that are on the disk whole or not at all, and the numbers that go on behind them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rekindle.train.durable import write_whole


def write_table(place: Path, table: pa.Table) -> Path:
    """Write the parquet file `place`; it appears whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, lambda partial: pq.write_table(table, partial, compression="zstd"))
    return place


def next_numbers(folder: Path, step: int) -> tuple[int, int]:
    """(uid, group) of the next row of a run that goes on behind `step`; files of later steps are void."""
    kept = [path for path in folder.glob("step-*.parquet") if int(path.stem[5:]) <= step]
    tables = [pq.read_table(path, columns=["uid", "group"]) for path in kept]
    uids, groups = ([max(t[name].to_pylist(), default=-1) for t in tables] for name in ("uid", "group"))
    return max(uids, default=-1) + 1, max(groups, default=-1) + 1
