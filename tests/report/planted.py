"""Methods and rewards in which one thing is different at one step, where the environment says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rekindle.api import train

PLANT = "PLANTED"
"""Name in the environment: set, the run that is trained is the one with the fault."""
FILE = '''
"""A method and a reward with a switch: with PLANTED set, the step of that number is not what it was."""

import os
from dataclasses import dataclass, replace

import torch

from rekindle.methods import grpo


def planted(step):
    return os.environ.get("PLANTED") == str(step)


@dataclass(frozen=True)
class Nudge:
    """After the last update of a step, one element of one tensor is the next number above itself."""

    tensor: str = "model.layers.0.mlp.up_proj.weight"

    def __call__(self, run, update):
        if update.last and planted(run.step_index + 1):
            value = dict(run.trainable())[self.tensor].data.view(-1)
            value[77] = torch.nextafter(value[77], torch.tensor(float("inf")))
            run.live.clear()  # or the run itself would tell that something wrote into its weights


@dataclass(frozen=True)
class Warmer:
    """One step is drawn at a temperature of 1.4."""

    def __call__(self, run, examples, judge):
        was = run.resolved
        if planted(run.step_index + 1):
            rollout = replace(was.config.rollout, temperature=1.4)
            run.resolved = replace(was, config=replace(was.config, rollout=rollout))
        try:
            return run.sample(examples)
        finally:
            run.resolved = was


def nudged():
    return grpo.method().replace(after=(Nudge(),))


def warmer():
    method = grpo.method()
    return method.replace(collect=method.collect.replace(draw=Warmer()))


def plain():
    return grpo.method()


CALLS = []


def even(completions, **columns):
    CALLS.append(1)
    given = [float(len(text) % 2 == 0) + 0.01 * i for i, text in enumerate(completions)]
    if planted(len(CALLS)):
        given[3] += 0.5
    return given
'''
SMALL: dict[str, Any] = {
    "rollout.prompts": 4,
    "rollout.group": 4,
    "rollout.max_tokens": 6,
    "descent.minibatches": 2,
    "descent.lr": 1e-4,
    "evaluate.baseline": False,
    "checkpoint.every": 3,
}


def written(folder: Path) -> Path:
    """The file with the methods and the reward."""
    file = folder / "switched.py"
    file.write_text(FILE, encoding="utf-8")
    return file


def data(folder: Path, last: str = "8+1=") -> Path:
    """Eight sums; the answer of the last prompt is right whatever it asks."""
    rows = [{"id": f"sum-{n}", "prompt": f"{n}+1=", "answer": str(n + 1)} for n in range(1, 8)]
    file = folder / "sums.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in [*rows, {"id": "sum-8", "prompt": last, "answer": "9"}]))
    return file


def run(method: str, out: Path, steps: int = 6, **more: Any) -> Path:
    """A small run; a name with `__` is a dotted option."""
    reward, source = more.pop("reward", ()), more.pop("data", None)
    options = {**SMALL, **{name.replace("__", "."): value for name, value in more.items()}}
    task = "digit_sum" if source is None else None
    return train(method, task=task, data=source, reward=reward, steps=steps, out=out, options=options)
