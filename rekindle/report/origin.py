"""The run that a model folder lies in: what its run.toml says of learning rate and updates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.reading import text_of
from rekindle.train.runfile import from_toml

STEP = re.compile(r"^step-(\d+)$")


@dataclass(frozen=True)
class Origin:
    """lr: None where it is a schedule, or differs by stage. steps: as the model has seen. updates: optimiser steps."""

    run: Path
    task: str | None
    lr: float | None
    steps: int
    updates: int | None

    @property
    def distance(self) -> float | None:
        """lr * updates: about how far Adam can move a weight that is pushed one way throughout."""
        return None if self.lr is None or self.updates is None else self.lr * self.updates


def saved_options(folder: Path) -> dict[str, Any]:
    """The options that `folder`/run.toml records, {} where there is none."""
    file = folder / "run.toml"
    if not file.is_file():
        return {}
    return dict(from_toml(text_of(file, "restore it, or name another folder"), str(file)).options)


def origin(folder: Path) -> Origin | None:
    """Where the model in `folder` comes from: a run folder, its `final`, or one of its checkpoints; None elsewhere."""
    here = folder.resolve()
    run = next((place for place in (here, here.parent, here.parent.parent) if (place / "run.toml").is_file()), None)
    if run is None:
        return None
    options = saved_options(run)
    step = STEP.match(here.name)
    steps = int(step.group(1)) if step else _count(options, "steps", run)
    lr = options.get("descent.lr")
    return Origin(
        run=run,
        task=options.get("task"),
        lr=lr if isinstance(lr, float) else None,
        steps=steps,
        updates=updates(options, steps, run),
    )


def updates(options: Mapping[str, Any], steps: int, run: Path) -> int | None:
    """Optimiser updates in so many steps; None where the record does not say. InputError where it was damaged."""
    names = ("descent.epochs", "descent.minibatches", "descent.cut_groups", "rollout.prompts", "rollout.group")
    if not all(name in options for name in names):
        return None
    epochs, minibatches, prompts, group = (_count(options, name, run) for name in names if name != names[2])
    return steps * epochs * min(minibatches, prompts * (group if options[names[2]] else 1))


def _count(options: Mapping[str, Any], name: str, run: Path) -> int:
    value = options.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{run / 'run.toml'}: 'run.options.{name}' is {value!r:.40}, no count: restore the file")
    return value


def tuned_folder(path: Path) -> Path:
    """The model of a run folder (`final`, else its newest checkpoint); any other folder as it is."""
    if not path.is_dir():
        raise InputError(f"'{path}' is no folder: give a model folder with safetensors, or a run folder")
    if not (path / "run.toml").is_file():
        return path
    saved = sorted((path / "checkpoints").glob("step-*"))
    found = path / "final" if (path / "final").is_dir() else saved[-1] if saved else None
    if found is None:
        raise InputError(f"the run in {path} has no model yet: wait for its first checkpoint, or for its end")
    return found
