"""Where a run's prompts come from: a task of the package, or the user's data. Known before the options are resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.rewards import Rewards, load_rewards
from rekindle.tokens.tasks import load_task
from rekindle.tokens.tasks.base import Task
from rekindle.tokens.tasks.files import Reading, load_files
from rekindle.tokens.tasks.lazy import looked_at
from rekindle.tokens.tasks.reasoning_gym import ReasoningGym
from rekindle.tokens.tasks.sources import Source, digest
from rekindle.train.config import early, early_source
from rekindle.train.settings import RunConfig

_OPTIONS = ("layout", "prompt", "answer", "config", "split")


def source_task(toml: Mapping[str, Any] | None, sets: Sequence[str], flags: Mapping[str, Any]) -> Task:
    """The task that the user names; InputError, one sentence, for anything that cannot be used."""
    said = (toml, sets, flags)
    name, data = early_source(*said)
    if data is None:
        return _bounded(load_task(str(name)), early("grading.workers", *said), early("grading.deadline", *said))
    files = {split: early(f"data_{split}", *said) for split in ("heldout", "ood")}
    return load_files(data, **files, reading=said_reading(*said))


def _bounded(task: Task, workers: Any, deadline: Any) -> Task:
    """The task with the workers and the deadline that the user gives the grading, where it grades by itself."""
    if isinstance(task, ReasoningGym):
        task.workers = workers if isinstance(workers, int) else task.workers
        task.deadline = float(deadline) if isinstance(deadline, int | float) else task.deadline
    return task


def said_reading(toml: Mapping[str, Any] | None, sets: Sequence[str], flags: Mapping[str, Any]) -> Reading:
    """How the user wants data read; InputError for a value of another kind than the option's."""
    said = (toml, sets, flags)
    given: dict[str, Any] = {name: early(f"data_{name}", *said) for name in _OPTIONS}
    wrong = next((name for name, value in given.items() if value is not None and not isinstance(value, str)), None)
    if wrong is not None:
        raise InputError(f"data_{wrong} is {given[wrong]!r}, which is no text: write it in quotes")
    streaming = early("streaming", *said)
    if streaming not in (None, True, False):
        raise InputError(f"streaming is {streaming!r}: set it to true or false")
    by = early("grading.by", *said)
    return Reading(
        rewarded=bool(early("reward", *said)),
        by=None if by is None else str(by),
        streaming=bool(streaming),
        **{name: value for name, value in given.items() if value is not None},
    )


def data_rewards(config: RunConfig, task: Task) -> Rewards | None:
    """The reward functions of a run, fit to its training data; InputError where one cannot be called with it.

    None where the run has no reward functions.
    """
    if not config.reward:
        return None
    rewards = load_rewards(config.reward)
    rewards.fit(looked_at(task.split("train")))
    return rewards


def data_inputs(config: RunConfig) -> dict[str, str]:
    """Data set -> what tells it from other data of the same name, for each that the run reads."""
    specs = {"train": config.data, "heldout": config.data_heldout, "ood": config.data_ood}
    sources = {
        split: Source(spec, config.data_config, config.data_split, config.streaming and split == "train")
        for split, spec in specs.items()
        if spec is not None
    }
    return {source.spec: digest(source) for source in sources.values()}
