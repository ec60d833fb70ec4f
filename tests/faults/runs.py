"""Short runs for the tests of faults: a method from a few lines of code, and what such a run has told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekindle.api import train
from rekindle.train.events import read_events

SMALL: Mapping[str, Any] = {
    "rollout.prompts": 2,
    "rollout.group": 4,
    "descent.minibatches": 1,
    "evaluate.baseline": False,
    "checkpoint.every": 1,
}
HEAD = """
import torch
from dataclasses import dataclass, replace
from rekindle.methods import grpo

STEP = {"at": 0}
"""


def method_file(folder: Path, code: str) -> str:
    """FILE.py:method of a file with this code below imports of torch, grpo and replace."""
    (folder / "own.py").write_text(HEAD + code)
    return f"{folder / 'own.py'}:method"


def rewards_file(folder: Path, body: str) -> list[str]:
    """The --reward of a function `f(completions, **columns)` with this body."""
    (folder / "r.py").write_text(f"import torch\n\ndef f(completions, **columns):\n    {body}\n")
    return [f"{folder / 'r.py'}:f"]


def run(method: str, folder: Path, steps: int = 3, **more: Any) -> Path:
    """A run on digit_sum, or on what `more` says; options=... are put over `SMALL`."""
    where = {} if "data" in more else {"task": "digit_sum"}
    options = {**SMALL, **more.pop("options", {})}
    return train(method, steps=steps, out=folder / "run", options=options, **where, **more)


def warnings(folder: Path) -> list[dict[str, Any]]:
    """The warnings of a run, in order."""
    return [record for record in read_events(folder / "run" / "events.jsonl") if record["kind"] == "warning"]


def named(folder: Path, what: str) -> list[dict[str, Any]]:
    """The warnings of one name."""
    return [record for record in warnings(folder) if record["what"] == what]
