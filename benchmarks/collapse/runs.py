"""Trains the cells, and keeps of each run the series that the watch looks at."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.collapse.cells import CELLS, SEEDS, Cell
from rekindle import api
from rekindle.report.series import label_free
from rekindle.train import runfile
from rekindle.train.events import read_events
from rekindle.train.traces import start_evaluation, watched_metric

DATA = Path(__file__).resolve().parent.parent / "collapse.json"
DIGITS = 4
"""Significant digits that are kept of a number."""


def planned() -> list[tuple[str, Cell, int]]:
    """(part, cell, seed) of every run."""
    return [(part, cell, seed) for part, cells in CELLS.items() for cell in cells for seed in SEEDS[part]]


def stored() -> list[dict[str, Any]]:
    """The runs that there are."""
    return json.loads(DATA.read_text(encoding="utf-8"))["runs"] if DATA.is_file() else []


def store(runs: Sequence[Mapping[str, Any]]) -> None:
    """Write the runs, one a line."""
    lines = ",\n".join(json.dumps(run, separators=(",", ":")) for run in runs)
    DATA.write_text(f'{{"runs": [\n{lines}\n]}}\n', encoding="utf-8")


def trained(part: str, cell: Cell, seed: int) -> dict[str, Any]:
    """One run, as it is stored."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "run"
        api.train(cell.method, task=cell.task, steps=cell.steps, seed=seed, out=out, options=cell.options())
        records = read_events(out / "events.jsonl")
        saved = runfile.from_toml((out / "run.toml").read_text(encoding="utf-8"), "run.toml")
    return {
        "part": part,
        "cell": cell.name,
        "seed": seed,
        "free": label_free(saved.options),
        "start": started(records),
        "train": columns([r for r in records if r["kind"] == "step"]),
        "eval": columns([r for r in records if r["kind"] == "eval"]),
    }


def started(records: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The watched metrics of the start model's held-out evaluation, which stands before the first step."""
    base = next(r for r in records if r["kind"] == "baseline")
    return {name: rounded(value) for name, value in start_evaluation(base)[0].items() if name != "step"}


def columns(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The watched metrics of records of one kind, a list each; None where a record has no such number."""
    names = [name for name in dict.fromkeys(key for record in records for key in record) if watched_metric(name)]
    table = {name: [rounded(record.get(name)) for record in records] for name in names}
    return {"step": [record["step"] for record in records], **table}


def rounded(value: Any) -> float | None:
    """A number with DIGITS significant digits."""
    return None if value is None else float(f"{value:.{DIGITS}g}")


def run_all() -> None:
    """Train what is not stored yet."""
    runs = stored()
    there = {(run["part"], run["cell"], run["seed"]) for run in runs}
    for part, cell, seed in planned():
        if (part, cell.name, seed) not in there:
            runs.append(trained(part, cell, seed))
            store(runs)
            print(part, cell.name, seed, flush=True)
