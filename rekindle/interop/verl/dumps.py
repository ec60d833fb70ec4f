"""verl's dumps: `trainer.rollout_data_dir` and `validation_data_dir`, and its file logger, as a `ForeignRun`.

verl 0.9.1 writes STEP.jsonl with `input`, `output`, `gts`, `score`, `step` and what the reward said besides; the file
logger a line `{"step": ..., "data": {...}}` a step, into the folder PROJECT/EXPERIMENT.jsonl or wherever
`VERL_FILE_LOGGER_PATH` points: it is read where it lies in the dump's folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from rekindle.errors import InputError
from rekindle.interop.foreign import ForeignRun, is_number
from rekindle.interop.verl.names import ours
from rekindle.tokens.rewards.base import tidy

WRITTEN = ("input", "output", "gts", "score", "step")
TEXTS = ("input", "output")
PLACED = ("uid", "acc", "success", "answer", "pred", "label")
"""Extras of the reward that have a column of ours."""
HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""How JSON writes a half of a character; two of them may make a whole one."""
_STEP = re.compile(r"[0-9]+\.jsonl")
Line = dict[str, Any]


def read_dump(folder: str | Path) -> ForeignRun:
    """The rollouts and the metrics that verl wrote into `folder`.

    A table's columns: `id` (of the prompt: "prompt-0", ...), `prompt`, `response`, `answer`, `label`, `success`,
    `graded`, `score`, `group`, `uid`, `reference` (verl's `gts`, as JSON where it is no text) and `reward/verl/KEY` for
    whatever else the reward said. Rows of one prompt text in a step are a group; `uid` counts over the whole run.
    success: the reward's `success` or `acc` where it said one, else whether the score is above 0. There is no log-prob,
    no token and no entropy of a response: verl writes none. steps: our names where both mean the same number (`names`),
    verl's elsewhere, with `score`, `success` and `responses` from the rollouts where no log says them.
    Rows with neither prompt nor response, by which verl fills up a batch, are left out.
    InputError naming file and line where a line is not what verl writes, and where the folder holds no dump.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise InputError(f"{place} is no folder: name the one that trainer.rollout_data_dir was set to")
    found = sorted((path for path in place.iterdir() if _STEP.fullmatch(path.name)), key=lambda path: int(path.stem))
    logs = sorted(path for path in place.glob("*.jsonl") if path not in found)
    if not found and not logs:
        raise InputError(f"{place} holds no STEP.jsonl of verl: set trainer.rollout_data_dir to it and train")
    tables: dict[int, pa.Table] = {}
    prompts: dict[str, str] = {}
    first = 0
    for path in found:
        rows = list(_rows(path))
        tables[int(path.stem)] = _table(rows, prompts, first)
        first += len(rows)
    return ForeignRun(steps=_steps(tables, _logged(logs)), tables=tables, config={"trainer": "verl"})


# --- rollouts -------------------------------------------------------------------------------------------------------


def _rows(path: Path) -> Iterator[Line]:
    for number, row in _lines(path):
        lacking = [name for name in WRITTEN if name not in row]
        if lacking:
            raise InputError(f"{path}, line {number}: no '{lacking[0]}', which verl writes: is it a dump of rollouts?")
        wrong = [name for name in TEXTS if not isinstance(row[name], str)]
        if wrong:
            raise InputError(f"{path}, line {number}: '{wrong[0]}' is no text: write the dump again")
        if not is_number(row["score"]):
            raise InputError(
                f"{path}, line {number}: the score {row['score']!r:.40} is no finite number: drop the line"
            )
        if row["step"] != int(path.stem):
            raise InputError(
                f"{path}, line {number}: step {row['step']} in the file of another: name it after its step"
            )
        if row["input"] or row["output"]:
            yield row


def _lines(path: Path) -> Iterator[tuple[int, Line]]:
    """(line number from 1, the object) of each line that is not empty."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error}): restore the file") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number}: no JSON ({error}): cut the line off, or write it again"
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: no JSON object: cut the line off, or write it again")
        if HALF.search(line) and not _is_text(row):
            raise InputError(
                f"{path}, line {number}: half of a surrogate pair (\\ud800 to \\udfff), which is no character: cut the "
                "line off, or write it again"
            )
        yield number, row


def _is_text(row: Line) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _table(rows: list[Line], prompts: dict[str, str], first: int) -> pa.Table:
    """One step's rows; `prompts` gives every prompt text of the run its id, and is added to."""
    for row in rows:
        prompts.setdefault(row["input"], f"prompt-{len(prompts)}")
    group = {text: number for number, text in enumerate(dict.fromkeys(row["input"] for row in rows))}
    columns: dict[str, pa.Array] = {
        "id": pa.array([prompts[row["input"]] for row in rows], pa.string()),
        "prompt": pa.array([row["input"] for row in rows], pa.string()),
        "response": pa.array([row["output"] for row in rows], pa.string()),
        "answer": pa.array([_text(row.get("answer", row.get("pred"))) for row in rows], pa.string()),
        "label": pa.array([_text(row.get("label")) for row in rows], pa.string()),
        "success": pa.array([_success(row) for row in rows], pa.bool_()),
        "graded": pa.array([True] * len(rows), pa.bool_()),
        "score": pa.array([float(row["score"]) for row in rows], pa.float64()),
        "group": pa.array([group[row["input"]] for row in rows], pa.int64()),
        "uid": pa.array(range(first, first + len(rows)), pa.int64()),
        "reference": pa.array([_text(row["gts"]) for row in rows], pa.string()),
    }
    extras = dict.fromkeys(key for row in rows for key in row if key not in (*WRITTEN, *PLACED[1:]))
    for key in extras:
        columns[f"reward/verl/{key}"] = pa.array(tidy([row.get(key) for row in rows]))
    return pa.table(columns)


def _success(row: Line) -> bool:
    told = [row[name] for name in ("success", "acc") if isinstance(row.get(name), bool | int | float)]
    return bool((told or [row["score"]])[0] > 0)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- metrics --------------------------------------------------------------------------------------------------------


def _logged(paths: list[Path]) -> dict[int, dict[str, float]]:
    """Step -> metrics by our names, of all logs; what is no number is left out, and later lines of a step go on top."""
    found: dict[int, dict[str, float]] = {}
    for path in paths:
        for number, row in _lines(path):
            step, data = row.get("step"), row.get("data")
            if not isinstance(step, int) or not isinstance(data, dict):
                raise InputError(
                    f"{path}, line {number}: no step with data, which verl's file logger writes: move it away"
                )
            numbers = {ours(name): float(value) for name, value in data.items() if is_number(value)}
            found[step] = found.get(step, {}) | numbers
    return found


def _steps(tables: Mapping[int, pa.Table], logged: Mapping[int, Mapping[str, float]]) -> list[dict[str, float]]:
    steps = []
    for step in sorted({*tables, *logged}):
        own = _means(tables[step]) if step in tables else {}
        steps.append({"step": float(step), **own, **logged.get(step, {})})
    return steps


def _means(table: pa.Table) -> dict[str, float]:
    """`score`, `success` (a share) and the number of `responses` of a step; no mean of no rows."""
    rows = len(table)
    if not rows:
        return {"responses": 0.0}
    scores, successes = table["score"].to_pylist(), table["success"].to_pylist()
    return {"score": sum(scores) / rows, "success": sum(successes) / rows, "responses": float(rows)}
