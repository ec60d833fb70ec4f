"""The teacher of a run: another causal LM that says what it thinks of the policy's tokens, and never trains."""

from __future__ import annotations

from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.loader import Loaded, context_length, eos_ids, load_model
from rekindle.tokens.tasks.base import Task
from rekindle.train.footprint import footprint
from rekindle.train.settings import RunConfig
from rekindle.train.snapshots import TEACHER


def load_teacher(config: RunConfig, task: Task, passes: set[str], student: Loaded) -> Loaded | None:
    """The teacher where the method has one; InputError where it is missing, unused or of other tokens.

    Where texts end may differ: `foreign_ends`.
    """
    check_teacher(config, passes)
    if config.teacher is None:
        return None
    found = load_model(config.teacher, task_name=task.name, device=config.device, dtype=config.dtype)
    check_same_tokens(config.teacher, found.tokenizer, student.tokenizer)
    mine, theirs = context_length(student.model), context_length(found.model)
    if mine is not None and theirs is not None and theirs < mine:
        raise InputError(
            f"teacher '{config.teacher}' has a context of {theirs} tokens and the model of {mine}: choose a teacher "
            "with at least as long a context"
        )
    found.model.requires_grad_(False)
    return found


def foreign_ends(student: Loaded, teacher: Loaded | None) -> tuple[int, ...]:
    """The tokens that end a text for the student and not for its teacher, who then holds them unlikely anywhere."""
    if teacher is None:
        return ()
    theirs = eos_ids(teacher.model, teacher.tokenizer)
    return tuple(i for i in eos_ids(student.model, student.tokenizer) if i not in theirs)


def teacher_size(config: RunConfig, passes: set[str]) -> int:
    """Parameters of the teacher, a whole model in every process; 0 where the method asks none."""
    if TEACHER not in passes or config.teacher is None:
        return 0
    return footprint(config.teacher, config.task).parameters


def check_teacher(config: RunConfig, passes: set[str]) -> None:
    """InputError where the method learns from a teacher and none is given, or never asks the one that is."""
    if config.teacher is None and TEACHER in passes:
        raise InputError(f"method '{config.method}' learns from a teacher: add --teacher FOLDER (a causal LM)")
    if config.teacher is not None and TEACHER not in passes:
        raise InputError(f"method '{config.method}' asks no teacher, and teacher={config.teacher} is given: drop it")


def check_same_tokens(spec: str, theirs: Any, ours: Any, roles: tuple[str, str] = ("teacher", "model")) -> None:
    """InputError where two tokenizers differ: log-probs of tokens cannot be compared then. roles: what the two are."""
    mine, other = ours.get_vocab(), theirs.get_vocab()
    if mine == other:
        return
    where = next((f"'{t}' is {mine.get(t)} and {other.get(t)}" for t in sorted(mine) if mine[t] != other.get(t)), None)
    where = where or f"{len(mine)} and {len(other)} tokens"
    raise InputError(
        f"{roles[0]} '{spec}' has another tokenizer than the {roles[1]} (of the two, {where}), and log-probs of tokens "
        f"cannot be compared then: choose a {roles[0]} of the same family"
    )
