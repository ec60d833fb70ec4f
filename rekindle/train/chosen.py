"""Training on chosen prompts: one (one-shot RLVR, arXiv 2504.20571: every slot of a step is a copy, each a group of its
own), or those that a file names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rekindle.errors import InputError
from rekindle.tokens.grading.base import GradesRows
from rekindle.tokens.reading import text_of
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.base import Derivation, Task
from rekindle.tokens.tasks.lazy import refuse_streamed
from rekindle.train.config import Resolved


@runtime_checkable
class Restrictable(Protocol):
    """A task that can itself be had with fewer training prompts; one that grades whole responses must be."""

    def restricted(self, examples: tuple[Example, ...]) -> Task:
        """The same task with `examples` as its whole training split."""
        ...


@dataclass(eq=False)
class Chosen:
    """`inner` with `examples` as its whole training split; all else is as in `inner`."""

    inner: Task
    examples: tuple[Example, ...]
    name: str
    version: int
    profile: Mapping[str, Any]
    system_prompt: str | None
    ways: tuple[str, ...]
    step_delimiters: tuple[str, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the inner task."""
        return self.inner.splits

    def split(self, name: str) -> Sequence[Example]:
        """The chosen examples for "train", the inner task's split for any other name."""
        return self.examples if name == "train" else self.inner.split(name)

    def extract(self, text: str) -> str | None:
        """As the inner task."""
        return self.inner.extract(text)

    def grade(self, answer: str | None, reference: str | None) -> bool | None:
        """As the inner task."""
        return self.inner.grade(answer, reference)

    def well_formed(self, text: str) -> bool:
        """As the inner task."""
        return self.inner.well_formed(text)

    def steps(self, text: str) -> str:
        """As the inner task."""
        return self.inner.steps(text)

    def derivation(self, example: Example, text: str) -> Derivation | None:
        """As the inner task."""
        return self.inner.derivation(example, text)


def chosen(resolved: Resolved, task: Task) -> Task:
    """The task of the run: with `one_shot` the one example, with `only` those whose ids a file names, in their order.

    InputError for an unknown id or an empty file, for both options at once, and for one example with a method that
    replaces or chooses prompts: there is no other prompt.
    """
    one, only = resolved.config.one_shot, resolved.config.only
    if one is not None or only is not None:
        refuse_streamed(task.split("train"), "one_shot" if only is None else "only")
    if one is not None and only is not None:
        raise InputError("one_shot and only are both given: drop one")
    if one is not None:
        _refuse_choice(resolved)
        return _with(task, (find(task.split("train"), one, "--one-shot"),))
    if only is not None:
        examples = task.split("train")
        return _with(task, tuple(find(examples, name, only) for name in ids(only)))
    return task


def ids(path: str) -> list[str]:
    """The prompt ids in a text file, one a line; InputError where it cannot be read, is empty or names one twice."""
    text = text_of(Path(path), "give a file with one id a line", f"the prompt ids of only='{path}'")
    names = [line.strip() for line in text.splitlines() if line.strip()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if not names or twice:
        said = f"names '{twice}' twice" if twice else "names no prompt"
        raise InputError(f"{path} {said}: give one id a line, each once")
    return names


def _with(task: Task, examples: tuple[Example, ...]) -> Task:
    if isinstance(task, Restrictable):
        return task.restricted(examples)
    if isinstance(task, GradesRows):
        raise InputError(f"task {task.name} grades its own prompts as a whole: drop one_shot or only")
    return Chosen(
        inner=task,
        examples=examples,
        name=task.name,
        version=task.version,
        profile=task.profile,
        system_prompt=task.system_prompt,
        ways=task.ways,
        step_delimiters=task.step_delimiters,
    )


def find(examples: Sequence[Example], name: str, where: str) -> Example:
    """The training example with the id `name`; InputError naming the nearest ids."""
    by_id = {example.id: example for example in examples}
    if name in by_id:
        return by_id[name]
    close = difflib.get_close_matches(name, by_id, n=3, cutoff=0.5)
    remedy = f"did you mean {' or '.join(map(repr, close))}?" if close else f"ids are such as {next(iter(by_id))!r}"
    raise InputError(f"{where}: no training example has the id '{name}': {remedy}")


def _refuse_choice(resolved: Resolved) -> None:
    """InputError where a part of the method drops prompts for fresh ones, or chooses among prompts."""
    for path, part in resolved.options.items():
        slot = ".".join(path.split(".")[-2:])
        if slot == "collect.select" and part != "Everything":
            does = "drops prompts without a signal and asks for fresh ones"
        elif slot == "collect.prompts" and part != "InOrder":
            does = "chooses its prompts itself"
        else:
            continue
        raise InputError(
            f"--one-shot: {path} = {part} {does}, and there is no other prompt: take a method without it, such as "
            "grpo, or drop --one-shot"
        )
