"""Which checkpoints of a run there are, which of them is the newest whole one, and which of them stay."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.tasks.base import Task
from rekindle.train import manifest
from rekindle.train.durable import remove, write_text
from rekindle.train.evaluate import quick_ks
from rekindle.train.sections import Checkpoint
from rekindle.train.settings import RunConfig

BEST = "best.json"
_NAME = re.compile(r"step-(\d+)(?:-update-(\d+))?")


def name_of(step: int, update: int | None) -> str:
    """The folder of a checkpoint behind `step` steps, and `update` updates of the next one, where that has begun."""
    return f"step-{step:06d}" + (f"-update-{update:02d}" if update is not None else "")


def stands_at(place: Path) -> tuple[int, int]:
    """(steps, updates of the next one) that a checkpoint's name says it stands behind; -1: the next has not begun."""
    found = _NAME.fullmatch(place.name)
    return (int(found.group(1)), -1 if found.group(2) is None else int(found.group(2))) if found else (-1, -1)


def places(folder: Path) -> list[Path]:
    """Every folder named as a checkpoint, oldest first, whole or not."""
    found = [path for path in folder.glob("step-*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=stands_at)


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in `folder`, oldest first. Their contents are not looked at."""
    return [place for place in places(folder) if (place / manifest.NAME).is_file()]


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files are what its manifest says, and a sentence for each newer one that is not.

    (None, []) where there is none at all; InputError where there are some and none is whole.
    """
    skipped: list[str] = []
    for place in reversed(places(folder)):
        wrong = manifest.damage(place)
        if wrong is None:
            return place, skipped
        skipped.append(f"{place.name} is not whole: {wrong}")
    if skipped:
        raise InputError(
            f"no checkpoint in {folder} is whole ({'; '.join(skipped)}): restore one, or remove that folder to start "
            "afresh"
        )
    return None, []


def prune(last: Path, how: Checkpoint, best: Mapping[str, Any] | None) -> None:
    """Remove all but `how.keep` up to `last`, the best, and those of every `how.archive` steps.

    last: the one that was written now. Later ones are damaged, for the run began behind them, and count for nothing.
    """
    there = [place for place in checkpoints(last.parent) if stands_at(place) <= stands_at(last)]
    for place in there[: -how.keep]:
        step, update = stands_at(place)
        archived = bool(how.archive) and step % how.archive == 0
        if update >= 0 or not (archived or (best is not None and step == best["step"])):
            remove(place)


def note_best(folder: Path, best: Mapping[str, Any] | None) -> None:
    """Write `best.json` beside the checkpoints: step, metric and value of the best one."""
    if best is not None:
        write_text(folder / BEST, json.dumps(dict(best)) + "\n")


def check_best(config: RunConfig, task: Task) -> None:
    """InputError where `checkpoint.best` names what no evaluation of the run measures."""
    metric, samples = config.checkpoint.best, config.evaluate.samples
    if metric is None:
        return
    if not config.evaluate.every:
        raise InputError(f"checkpoint.best={metric} takes evaluations to choose by: set evaluate.every, or drop it")
    ks = quick_ks(samples)
    there = [*(f"pass@{k}" for k in ks), *(f"maj@{k}" for k in ks if k > 1), f"avg@{samples}"]
    there += ["distinct"] if task.ways else []
    if metric not in there:
        raise InputError(f"checkpoint.best={metric} is not among the metrics of evaluations: {', '.join(there)}")


def improved(watched: dict[str, Any], metric: str | None, step: int, values: Mapping[str, float]) -> bool:
    """Whether an evaluation after `step` is better than all before; what the run watches has the best, ties stay.

    InputError where the task has no such metric.
    """
    if metric is None:
        return False
    if metric not in values:
        raise InputError(
            f"checkpoint.best={metric}, which evaluations on this task do not have: drop it, or name pass@k"
        )
    best = watched.get("best")
    if best is not None and best["value"] >= values[metric]:
        return False
    watched["best"] = {"step": step, "metric": metric, "value": values[metric]}
    return True
