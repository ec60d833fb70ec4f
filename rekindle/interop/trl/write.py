"""A table that is on the disk whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rekindle.train.durable import PARTIAL, flush


def write_table(place: Path, table: pa.Table) -> Path:
    """Write the parquet file `place`; it appears whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}{PARTIAL}")
    pq.write_table(table, partial, compression="zstd")
    flush(partial)
    partial.rename(place)
    flush(place.parent)
    return place
