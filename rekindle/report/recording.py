"""What a report knows of a run: its events, its rollouts a step, its evaluations. Rekindle's own run folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rekindle.errors import InputError
from rekindle.report.origin import saved_options
from rekindle.report.reading import CREDITS, ROLLOUTS, columns_of, has_tokenizer, pieces_of, result_counts
from rekindle.train.counts import Counts, read_counts
from rekindle.train.credits import BOUNDS
from rekindle.train.events import read_events


def unchanging(step: int) -> str:
    """The version of a step's table that nothing adds to."""
    return ""


def nothing() -> Sequence[str]:
    """The notes of a run whose files are whole."""
    return ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """A run, whoever trained it.

    steps: the metrics of each step, with "step", by Rekindle's names; other: every other record, in order. table: the
    rollouts of a step, a row a response, with the columns of a run folder (what was not recorded is left out) and,
    where tokens are known, `token_text`. kept: the steps that have a table. counts: of evaluations; step 0 is the base.
    method: what runs of several seeds share. seed: None where unknown. options: flat, {} where unknown. stamp: changes
    whenever the folder has more to show; version: of a step's table. notes: what the tables had to do without so far.
    """

    name: str
    origin: str
    method: str
    folder: Path
    seed: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: Sequence[Mapping[str, Any]] = ()
    other: Sequence[Mapping[str, Any]] = ()
    kept: Sequence[int] = ()
    table: Callable[[int], pa.Table]
    counts: Sequence[Counts] = ()
    stamp: str = ""
    version: Callable[[int], str] = unchanging
    notes: Callable[[], Sequence[str]] = nothing

    def of_kind(self, kind: str) -> list[Mapping[str, Any]]:
        """The records of one kind that is no step."""
        return [record for record in self.other if record["kind"] == kind]

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) wherever a step has the number `name`."""
        return [(int(s["step"]), float(s[name])) for s in self.steps if isinstance(s.get(name), int | float)]

    @property
    def done(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.of_kind("end"))


def recordings(folder: Path) -> list[Recording]:
    """The run in `folder`, or all runs of the comparison in it. InputError where it holds neither."""
    if (folder / "events.jsonl").is_file():
        return [read_run(folder)]
    if (folder / "compare.json").is_file():
        return compared(folder)
    if not folder.is_dir():
        raise InputError(f"'{folder}' is no folder: give a run folder, or the folder of a comparison")
    raise InputError(
        f"'{folder}' holds no run of Rekindle (events.jsonl) and no comparison (compare.json): give one that does, or "
        "say whose it is with --from trl or --from verl"
    )


def compared(folder: Path) -> list[Recording]:
    """The runs of a comparison, each with the base's counts as of step 0 and its own as of its end."""
    start = folder / "base" / "result.json"
    stamp = changed(start)
    base = result_counts(start, 0)
    runs = [path for path in sorted((folder / "runs").glob("*")) if (path / "events.jsonl").is_file()]
    if not runs:
        raise InputError(f"no run of the comparison in '{folder}' has begun: let it run first")
    found = []
    for path in runs:
        result = path / "result.json"
        stamps = [stamp, changed(result)]
        run = read_run(path)
        last = int(run.steps[-1]["step"]) if run.steps else 0
        counts = [*base, *run.counts, *result_counts(result, last)]
        found.append(replace(run, counts=counts, stamp="/".join([run.stamp, *stamps])))
    return found


def of_tables(
    folder: Path,
    origin: str,
    steps: Sequence[Mapping[str, Any]],
    tables: Mapping[int, pa.Table],
    config: Mapping[str, Any],
) -> Recording:
    """A run of another trainer, from its step metrics, its tables of rollouts and its flat configuration."""
    name = folder.resolve().name
    told = sorted((dict(step) for step in steps), key=lambda step: step["step"])
    return Recording(
        name=name,
        origin=origin,
        method=name,
        folder=folder,
        options=dict(config),
        steps=[{"kind": "step", **step} for step in told],
        kept=sorted(tables),
        table=tables.__getitem__,
    )


def read_run(folder: Path) -> Recording:
    """A run folder of Rekindle, finished or still being written."""
    # Before anything is read: what is written meanwhile is news at the next look.
    worded = has_tokenizer(folder)
    stamp = f"{stamp_of(folder)}/{worded}"
    records = read_events(folder / "events.jsonl")
    options = saved_options(folder)
    start = next((r for r in records if r["kind"] == "start"), {})
    seed = options.get("seed")
    steps = [r for r in records if r["kind"] == "step"]
    # What lies behind the last step was left by a run that went back to a checkpoint, or is of a step that goes on.
    last = max((int(r["step"]) for r in steps), default=0)
    kept = (
        int(path.stem[5:]) for path in sorted((folder / "rollouts").glob("step-*.parquet")) if STEP.match(path.stem)
    )
    counts = [c for c in read_counts(folder / "evaluations") if c.step <= last]
    tables = Tables(folder)
    return Recording(
        name=folder.resolve().name,
        origin="rekindle",
        method=str(options.get("method") or start.get("method") or folder.resolve().name),
        folder=folder,
        seed=seed if isinstance(seed, int) else None,
        options=options,
        steps=steps,
        other=[r for r in records if r["kind"] not in ("step", "weights")],
        kept=[step for step in kept if step <= last],
        table=tables,
        counts=counts,
        stamp=stamp,
        version=lambda step: f"{version_of(folder, step)}/{worded}",
        notes=lambda: tables.notes,
    )


STEP = re.compile(r"^step-\d+$")


def stamp_of(folder: Path) -> str:
    """What changes whenever the folder has more to show."""
    return "/".join(changed(folder / name) for name in ("events.jsonl", *SHOWN))


SHOWN = ("rollouts", "credits", "evaluations")


def changed(place: Path) -> str:
    """What changes whenever a file is written, or one of a folder's is put there; "" where there is nothing."""
    try:
        found = place.stat()
    except FileNotFoundError:
        return ""
    return f"{found.st_size}:{found.st_mtime_ns}"


def version_of(folder: Path, step: int) -> str:
    """What changes whenever a file of a step is written."""
    files = (folder / name / f"step-{step:06d}.parquet" for name in SHOWN[:2])
    return "/".join(str(file.stat().st_mtime_ns) if file.is_file() else "" for file in files)


@dataclass
class Tables:
    """The rollouts of a run folder with what each response taught; tokens as text where a tokenizer is there."""

    folder: Path
    pieces: list[str] | None = None
    notes: list[str] = field(default_factory=list)

    def __call__(self, step: int) -> pa.Table:
        """The table of a step. InputError where its file is gone or damaged."""
        name = f"step-{step:06d}.parquet"
        table = columns_of(self.folder / "rollouts" / name, ROLLOUTS)
        credits = self.folder / "credits" / name
        if credits.is_file():
            table = joined(table, columns_of(credits, CREDITS))
        return self._with_text(table) if "token_ids" in table.column_names else table

    def _with_text(self, table: pa.Table) -> pa.Table:
        if self.pieces is None:
            self.pieces, self.notes = pieces_of(self.folder)
        if not self.pieces:
            return table
        words = pa.array(self.pieces)
        ids: pa.ListArray = table.column("token_ids").combine_chunks()
        flat = ids.flatten()
        if len(flat) and int(np.asarray(flat).max()) >= len(words):
            return table
        return table.append_column("token_text", pa.ListArray.from_arrays(ids.offsets, words.take(flat)))


def joined(table: pa.Table, credits: pa.Table) -> pa.Table:
    """The rollouts with the columns of their credits; null where a response was in no update."""
    place = {uid: i for i, uid in enumerate(credits.column("uid").to_pylist())}
    rows = pa.array([place.get(uid) for uid in table.column("uid").to_pylist()], pa.int64())
    for name in credits.column_names:
        if name != "uid":
            table = table.append_column(name, credits.column(name).combine_chunks().take(rows))
    bounds = (credits.schema.metadata or {}).get(BOUNDS)
    return table if bounds is None else table.replace_schema_metadata({BOUNDS: bounds})
