"""How near the memory of a plan is to what a run takes: docs/results/memory.json, the numbers behind docs/planning.md.

python scripts/memory_study.py      measures the rows that are not stored, each in a fresh process (some minutes)

Each process imports everything, takes two steps of a toy model (thread pools and buffers of the libraries come into
being), and only then the size to compare with is read, the run of the row is loaded and takes two steps: the second one
has the optimiser's moments and the last gradients. The peak of each part of the second step is the largest resident
size that Linux saw in it. One thread; glibc's allocator gives freed blocks of 128 KiB and more back at once, for its
usual habit of keeping them makes a peak depend on what was freed before.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STORED = ROOT / "docs" / "results" / "memory.json"
ENVIRONMENT: Mapping[str, str] = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "PYTHONWARNINGS": "ignore",
}
SIZES = ("1M", "10M", "60M")
USUAL: Mapping[str, Any] = {
    "rollout.prompts": 8,
    "rollout.group": 8,
    "rollout.max_tokens": 64,
    "rollout.block": 8,
    "descent.minibatches": 1,
    "descent.micro_batch": 32,
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "all weights": {},
    "all weights, checkpointing": {"checkpointing": True},
    "all weights, one forward pass an update": {"descent.micro_batch": 64},
    "all weights, bf16 products": {"precision": "bf16"},
    "LoRA, rank 16": {"lora.rank": 16},
    "LoRA, rank 16, bfloat16 weights": {"lora.rank": 16, "dtype": "bfloat16"},
    "LoRA, rank 16, checkpointing": {"lora.rank": 16, "checkpointing": True},
}
ROWS = tuple(
    (size, setting)
    for size in SIZES
    for setting in SETTINGS
    if size != "60M" or setting in ("all weights", "all weights, checkpointing", "LoRA, rank 16")
)
REWARD = """
def reward(completions, **_):
    return [float(text.count(" ") % 7 + len(text) % 5) for text in completions]
"""
PROMPTS = (8, 24)  # shortest and longest, in tokens


def asked(folder: Path, setting: str) -> dict[str, Any]:
    """The options of a row: one update of GRPO's a step, responses of the limit's length."""
    given = {"model": str(folder), "data": str(folder / "prompts.jsonl"), "reward": (f"{folder / 'reward.py'}:reward",)}
    return {**given, **USUAL, "steps": 1_000_000, "empty_steps": 0, "checkpoint.every": 0, **SETTINGS[setting]}


def make_folder(name: str, folder: Path) -> Path:
    """A random model of this size whose responses never end before the limit, with prompts and a reward."""
    from benchmarks.speed.models import SIZES as SHAPES
    from benchmarks.speed.models import make_prompts, write_folder

    shape = SHAPES[name]
    write_folder(folder, shape, make_prompts(shape.vocab, 32, *PROMPTS), mean=1e12)
    (folder / "reward.py").write_text(REWARD, encoding="utf-8")
    return folder


def measured(name: str, setting: str, work: Path) -> dict[str, Any]:
    """One row: bytes predicted and measured at the peak of a step, and of its parts."""
    from rekindle.train.build import make_run
    from rekindle.train.plan import planned
    from rekindle.train.start import Asked, prepare

    toy = make_folder("toy", work / "toy")
    steps(make_run(*prepare(Asked("grpo", asked(toy, setting)))), lambda part: None)
    folder = make_folder(name, work / "model")
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = status("VmRSS")
    resolved, task = prepare(Asked("grpo", asked(folder, setting)))
    plan = planned(resolved, task)
    found: dict[str, int] = {}

    def read(part: str) -> None:
        found[part] = max(found.get(part, 0), status("VmHWM") - before)
        Path("/proc/self/clear_refs").write_text("5")

    steps(make_run(resolved, task), read)
    first = found.pop("start")
    predicted = plan.memory.peaks
    return {
        "size": name,
        "setting": setting,
        "parameters": plan.model.parameters,
        "predicted": plan.memory.peak,
        "measured": max(found.values()),
        "loading and first step": first,
        "ratio": plan.memory.peak / max(found.values()),
        "parts": {part: {"predicted": predicted[part], "measured": found[part]} for part in found},
        "terms": {
            "held": dict(plan.memory.held),
            "sample": dict(plan.memory.sample),
            "update": dict(plan.memory.update),
        },
    }


def steps(run: Any, read: Callable[[str], None]) -> None:
    """Two steps as the loop takes them; `read` is told after each part of the second one."""
    descend, draw = type(run).descend, type(run).sample

    def sample(examples: Any) -> Any:
        rollouts = draw(run, examples)
        read("sample")
        return rollouts

    def update(part: Any, method: Any, index: int) -> Any:
        done = descend(run, part, method, index)
        read("update")
        return done

    for number in range(2):
        if number == 1:
            read("start")
            run.sample, run.descend = sample, update
        run.observed, run.seconds, run.last_rollouts, run.drawn = {}, {}, [], 0
        run.record = run.method.at(0.0)
        run.record.step(run)
        run.step_index += 1


def status(name: str) -> int:
    """Bytes that Linux says of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def row(name: str, setting: str) -> dict[str, Any]:
    """One row, measured in a process of its own."""
    command = [sys.executable, __file__, "--only", name, setting]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}, {setting}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures every row that is not stored yet; `--only SIZE SETTING` prints one."""
    if sys.argv[1:2] == ["--only"]:
        with tempfile.TemporaryDirectory(prefix="rekindle-memory-") as work:
            print(json.dumps(measured(sys.argv[2], sys.argv[3], Path(work))))
        return
    import torch
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    found = {"environment": dict(ENVIRONMENT), "versions": versions, "options": dict(USUAL)}
    rows = {}
    if STORED.is_file():
        rows = {(r["size"], r["setting"]): r for r in json.loads(STORED.read_text(encoding="utf-8"))["rows"]}
    for key in ROWS:
        if key not in rows:
            rows[key] = row(*key)
            kept = [rows[one] for one in ROWS if one in rows]
            print(f"{key[0]:4} {key[1]:42} {rows[key]['ratio']:.3f}", flush=True)
            STORED.write_text(json.dumps({**found, "rows": kept}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
