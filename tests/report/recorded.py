"""Recordings made by hand, and small real runs, for the tests of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from rekindle.report.page.build import document
from rekindle.report.recording import Recording
from rekindle.train.counts import Counts
from rekindle.train.credits import BOUNDS

OPTIONS = {
    "rollout.prompts": 4, "rollout.group": 8, "rollout.votes": 16, "evaluate.every": 2, "evaluate.prompts": 8,
    "evaluate.samples": 8, "checkpoint.every": 0,
}  # fmt: skip


def recording(name: str = "run", **parts: Any) -> Recording:
    """A recording with the given parts, and tables by step in `tables`."""
    tables: Mapping[int, pa.Table] = parts.pop("tables", {})
    whole: dict[str, Any] = {"origin": "rekindle", "method": name, "folder": Path(name), "kept": sorted(tables)}
    return Recording(name=name, table=tables.__getitem__, **(whole | parts))


def steps(**columns: Sequence[float]) -> list[dict[str, Any]]:
    """Step records from columns, "groups__dead" for "groups/dead"."""
    count = len(next(iter(columns.values())))
    named = {name.replace("__", "/"): values for name, values in columns.items()}
    return [{"kind": "step", "step": i + 1, **{n: v[i] for n, v in named.items()}} for i in range(count)]


def counts(step: int, split: str = "heldout", samples: int = 8, **right: int) -> Counts:
    return Counts(step, split, samples, right)


def row(**cells: Any) -> dict[str, Any]:
    """A response of two tokens; the given cells differ."""
    plain: dict[str, Any] = {
        "id": "p0", "prompt": "1+1=", "response": "2!", "answer": "2", "label": "2", "success": True, "graded": True,
        "score": 1.0, "finish": "eos", "group": 0, "uid": 0, "trained": True, "advantage": 1.0,
        "token_text": ["2", "!"], "token_ids": [1, 2], "token_logp": [-0.1, -0.2], "token_entropy": [0.5, 0.1],
        "token_ratio": [1.0, 1.3],
    }  # fmt: skip
    return {name: value for name, value in (plain | cells).items() if value is not ...}


def table(*rows: Mapping[str, Any], bounds: str | None = "0.8 1.2") -> pa.Table:
    """A step's table; `...` in a cell leaves the column out."""
    made = pa.Table.from_pylist([dict(r) for r in rows])
    return made if bounds is None else made.replace_schema_metadata({BOUNDS: bounds.encode()})


def panel(runs: Sequence[Recording], name: str) -> dict[str, Any]:
    """A panel of the document of these runs."""
    return next(p for p in document(runs)["panels"] if p["id"] == name)


def titles(found: Mapping[str, Any]) -> list[str]:
    return [chart["title"] for chart in found["charts"]]


def values(chart: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that a chart draws."""
    spec = chart["spec"]
    while "data" not in spec:
        spec = spec["layer"][0]
    return spec["data"]["values"]
