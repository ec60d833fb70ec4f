"""Small runs to break: begun, cut, and gone on with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from rekindle.api import train
from rekindle.train.events import raw_events
from rekindle.train.retention import checkpoints
from tests.faults.kill import SMALL

STEPS = 5
ORDINARY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
"""Become an ordinary user: root writes where nobody may."""


ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


class Interrupted(Exception):
    """Ends a run from outside, as a kill does but for buffers."""


def whole(out: Path, method: str = "grpo", **more: Any) -> Path:
    """A run of STEPS steps."""
    options = {**SMALL, **more.pop("options", {})}
    return train(method, task="digit_sum", steps=STEPS, out=out, options=options, **more)


def cut(out: Path, after: int, **more: Any) -> Path:
    """A run that ends once step `after` is written down, before its checkpoint."""

    def heard(record: dict[str, Any]) -> None:
        if record["kind"] == "step" and record["step"] == after:
            raise Interrupted

    try:
        whole(out, heard=heard, **more)
    except Interrupted:
        return out
    raise AssertionError("the run was not cut")


def gone_on(out: Path, **more: Any) -> list[str]:
    """Resume to the end; the notes that were heard."""
    notes: list[str] = []

    def heard(record: dict[str, Any]) -> None:
        notes.extend([record["text"]] if record["kind"] == "note" else [])

    whole(out, resume=True, heard=heard, **more)
    return notes


def newest(out: Path) -> Path:
    """The newest checkpoint."""
    return checkpoints(out / "checkpoints")[-1]


def marks(out: Path, kind: str) -> list[dict[str, Any]]:
    """The records of a kind as they were written."""
    return [record for record in raw_events(out / "events.jsonl") if record["kind"] == kind]


def words(*more: str, options: dict[str, Any] | None = None) -> list[str]:
    """The command line of the same run."""
    every = {**SMALL, **(options or {})}
    sets = [word for name, value in every.items() for word in ("--set", f"{name}={value}")]
    return [sys.executable, "-m", "rekindle", "train", "grpo", "--task", "digit_sum", *sets, *more]


def command(
    *more: str, options: dict[str, Any] | None = None, before: tuple[str, ...] = (), cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    line = [*before, *words(*more, options={"steps": STEPS, **(options or {})})]
    return subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, cwd=cwd, timeout=900, check=False)


def copied(source: Path, target: Path) -> Path:
    """A copy of a run folder, to be broken."""
    shutil.copytree(source, target)
    return target
