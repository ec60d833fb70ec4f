"""How often each prompt of an evaluation was answered right: what pass@k and coverage are made of, a file each."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.reading import object_of, text_of
from rekindle.train.durable import make, write_text
from rekindle.train.evaluate import Evaluation
from rekindle.train.events import read_events
from rekindle.train.runfile import from_toml

STEP = re.compile(r"^step-(\d+)(?:-update-\d+)?$")
"""Name of a checkpoint."""


@dataclass(frozen=True)
class Counts:
    """Of `samples` responses to each prompt (by id), how many were right, by the weights behind `step`."""

    step: int
    split: str
    samples: int
    right: Mapping[str, int]


def write_counts(folder: Path, step: int, split: str, found: Evaluation) -> Path:
    """Write `folder/step-NNNNNN-SPLIT.json`, whole or not at all."""
    make(folder)
    place = folder / f"step-{step:06d}-{split}.json"
    told = {"step": step, "split": split, "samples": found.samples, "right": dict(found.right)}
    write_text(place, json.dumps(told) + "\n")
    return place


def read_counts(folder: Path) -> list[Counts]:
    """What `write_counts` wrote, by step; InputError names a file that is damaged."""
    found = []
    for path in sorted(folder.glob("step-*.json")):
        told = object_of(path, "delete it, or restore it")
        try:
            found.append(counts_of(told))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} holds no counts of an evaluation ({error}): delete it, or restore it") from None
    return found


def counts_of(told: Mapping[str, object]) -> Counts:
    """From parsed JSON; KeyError, TypeError or ValueError where it is something else."""
    right, samples = told["right"], told["samples"]
    if not isinstance(right, dict) or not isinstance(samples, int) or not isinstance(told["step"], int):
        raise TypeError("step, samples and right are a number, a number and an object")
    if samples < 1:
        raise ValueError(f"{samples} samples are none")
    if any(not isinstance(count, int) or not 0 <= count <= samples for count in right.values()):
        raise ValueError(f"a count is a whole number from 0 to {samples}")
    return Counts(told["step"], str(told["split"]), samples, right)


def prompts_of(run: Path) -> tuple[str | None, str | None]:
    """(task, data) of the run in a folder; InputError where it is no run folder."""
    options = _options(run)
    return options.get("task") if not options.get("data") else None, options.get("data")


def shelf_of(run: Path, model: str, task: str | None, data: str | None) -> tuple[Path, int]:
    """(where the counts of `run` lie, the step that `model` stands for): its last one where it is the run's, else 0.

    InputError where `run` is no run folder, has taken no step, trained on other prompts, or began with another model.
    """
    options, own = _options(run), prompts_of(run)
    if (task, data) != own:
        named = f"--data {own[1]}" if own[1] else f"--task {own[0]}"
        raise InputError(f"the run in --keep {run} is of other prompts: measure the model with {named}")
    here = Path(model).expanduser().resolve()
    if here != run.resolve() and run.resolve() not in here.parents:
        start = str(options.get("model"))
        if model != start and here != Path(start).expanduser().resolve():
            raise InputError(f"{model} is neither the run in --keep {run} nor its start model: name {run} or {start}")
        return run / "evaluations", 0
    steps = [record["step"] for record in read_events(run / "events.jsonl") if record["kind"] == "step"]
    if not steps:
        raise InputError(f"the run in --keep {run} has taken no step yet: let it run first")
    checkpoint = STEP.match(here.name)
    return run / "evaluations", int(checkpoint.group(1)) if checkpoint else int(steps[-1])


def _options(run: Path) -> Mapping[str, Any]:
    if not (run / "run.toml").is_file():
        raise InputError(f"--keep '{run}' is no run folder (it has no run.toml): name the run whose report is meant")
    return from_toml(text_of(run / "run.toml", "restore it"), str(run / "run.toml")).options
