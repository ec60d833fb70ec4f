"""The runs that are measured, and their measurement: real `rekindle train` runs, the fastest of their steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.models import SIZES, Size, make_prompts, write_folder
from rekindle.train.events import read_events

PROMPT = 24
"""Tokens of every prompt."""
NEVER = 1e9  # mean length of an unlimited response: every response has all of its tokens
STEPS, WARM = 4, 1
SIZES_HERE: Mapping[str, Size] = {**SIZES, "30M": Size(8192, 384, 12, 6, 2, 64, 1536)}


@dataclass(frozen=True)
class Point:
    """One run. prompts, group: of a step; length: tokens of a response; ranks: processes of one thread each."""

    model: str = "10M"
    prompts: int = 8
    group: int = 8
    length: int = 64
    ranks: int = 1

    @property
    def name(self) -> str:
        """For files and messages."""
        return f"{self.model}-p{self.prompts}-g{self.group}-t{self.length}-n{self.ranks}"


FITTED = (
    Point(),
    Point(prompts=4),
    Point(prompts=16),
    Point(group=4),
    Point(group=16),
    Point(length=32),
    Point(length=128),
    Point(model="1M"),
    Point(model="1M", prompts=16, group=16),
    Point(model="30M"),
    Point(ranks=2),
    Point(prompts=16, ranks=2),
    Point(model="1M", ranks=2),
    Point(model="30M", ranks=2),
)
"""One thing varied at a time, around one point."""
HELD_OUT = (
    Point(model="1M", prompts=16, length=128),
    Point(group=16, length=96),
    Point(model="30M", prompts=4, group=4, length=32),
    Point(model="30M", prompts=4, group=4, length=96, ranks=2),
    Point(model="60M", prompts=4, group=4, length=64),
    Point(prompts=16, group=16, length=48, ranks=2),
)
"""Never fitted: what the model is judged by."""


def measure(point: Point, place: Path) -> dict[str, Any]:
    """Seconds of a step by part: the fastest after the first, for other work on the machine only adds time."""
    model = place / point.model
    if not model.is_dir():
        size = SIZES_HERE[point.model]
        write_folder(model, size, make_prompts(size.vocab, 64, PROMPT, PROMPT), NEVER)
    out = place / point.name
    subprocess.run([sys.executable, "-m", "rekindle", *asked(point, model, out)], check=True, env=alone())
    steps = [event["time"] for event in read_events(out / "events.jsonl") if event["kind"] == "step"][WARM:]
    best = min(steps, key=lambda step: step["seconds"])
    parts = {name: best.get(name, 0.0) for name in ("seconds", "sample", "update")}
    return {**asdict(point), **parts}


def asked(point: Point, model: Path, out: Path) -> list[str]:
    """The command line of a point's run: one update a step, every rank decodes its prompts in one block."""
    options = {
        "rollout.max_tokens": point.length,
        "rollout.block": max(1, point.prompts // point.ranks),
        "descent.minibatches": 1,
        "descent.lr": 1e-9,
        "descent.micro_batch": 16,
        "evaluate.baseline": "false",
        "checkpoint.every": 0,
        "checkpoint.rollouts": 0,
        "system_prompt": "none",
    }
    words = ["train", "grpo", "--model", str(model), "--data", str(model / "prompts.jsonl"), "--out", str(out)]
    words += ["--reward", f"{Path(__file__).parent.parent / 'speed' / 'models.py'}:reward", "--steps", str(STEPS)]
    words += ["--prompts", str(point.prompts), "--group", str(point.group)]
    words += ["--ranks", str(point.ranks)] if point.ranks > 1 else []
    return words + [word for name, value in options.items() for word in ("--set", f"{name}={value}")]


def alone() -> dict[str, str]:
    """The environment of a run whose ranks compute with one thread each."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def read(path: Path) -> dict[str, Any]:
    """The stored measurements."""
    return json.loads(path.read_text(encoding="utf-8"))
