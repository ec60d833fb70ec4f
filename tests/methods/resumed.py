"""Short real runs on digit_sum: whole, and cut after a checkpoint and resumed; the two must end alike, bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import equal

from rekindle.api import train

SMALL = {
    "rollout.prompts": 6,
    "rollout.group": 4,
    "rollout.max_tokens": 6,
    "descent.minibatches": 2,
    "evaluate.baseline": False,
    "checkpoint.every": 1,
    "checkpoint.keep": 9,
}


def run_twice(method: str, folder: Path, steps: int = 4, cut: int = 2, **options: Any) -> tuple[Path, Path]:
    """(a run of `steps` steps, the same one thrown back to its checkpoint of step `cut` and resumed)."""
    said = {**SMALL, **{path.replace("__", "."): value for path, value in options.items()}}
    whole = train(method, task="digit_sum", steps=steps, out=folder / "whole", options=said)
    shutil.copytree(whole, folder / "cut")
    shutil.rmtree(folder / "cut" / "final")
    for step in range(cut + 1, steps + 1):
        shutil.rmtree(folder / "cut" / "checkpoints" / f"step-{step:06d}")
    return whole, train(method, task="digit_sum", steps=steps, out=folder / "cut", options=said, resume=True)


def memory(run: Path, step: int = 4) -> dict[str, Any]:
    """What a run remembers after a step, as its checkpoint holds it."""
    return json.loads((run / "checkpoints" / f"step-{step:06d}" / "state" / "run.json").read_text())["memory"]


def assert_alike(whole: Path, cut: Path, step: int = 4) -> None:
    """Weights, optimiser, heads and memory of the two runs after `step` are equal."""
    states = [run / "checkpoints" / f"step-{step:06d}" for run in (whole, cut)]
    files = [sorted(str(f.relative_to(s)) for f in s.rglob("*.safetensors")) for s in states]
    assert files[0] == files[1] and len(files[0]) >= 2
    for name in files[0]:
        ours, theirs = (load_file(s / name) for s in states)
        assert ours.keys() == theirs.keys() and all(equal(ours[k], theirs[k]) for k in ours), name
    assert memory(whole, step) == memory(cut, step)
