"""How often each prompt of an evaluation was answered right: what pass@k and coverage are made of, a file each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rekindle.errors import InputError
from rekindle.tokens.reading import object_of
from rekindle.train.durable import write_text
from rekindle.train.evaluate import Evaluation


@dataclass(frozen=True)
class Counts:
    """Of `samples` responses to each prompt (by id), how many were right, by the weights behind `step`."""

    step: int
    split: str
    samples: int
    right: Mapping[str, int]


def write_counts(folder: Path, step: int, split: str, found: Evaluation) -> Path:
    """Write `folder/step-NNNNNN-SPLIT.json`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
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
    if any(not isinstance(count, int) or not 0 <= count <= samples for count in right.values()):
        raise ValueError(f"a count is a whole number from 0 to {samples}")
    return Counts(told["step"], str(told["split"]), samples, right)
