"""How long prompts are, before a run: in tokens where the tokenizer is there, else guessed from their characters."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path

from rekindle.errors import InputError
from rekindle.tokens.chat import Encode
from rekindle.tokens.encoder import EMBEDDED_TASKS, has_tokenizer, load_encode, tokenizer_place
from rekindle.tokens.loader import adapter_of
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.base import Task
from rekindle.tokens.tasks.lazy import looked_at
from rekindle.train.config import Resolved
from rekindle.train.footprint import place
from rekindle.train.opened import check_own_system
from rekindle.train.settings import written_draws
from rekindle.train.vocabulary import Step

LOOKED_AT = 512
"""Prompts whose length is looked at."""
CHARACTERS = 4
"""A token, where nothing better is known (English text, vocabularies of 32,000 and more)."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens a prompt, `longest` and on average, and the most a response may have. known: counted, not assumed.

    prompts: training prompts there are, None where they are streamed. looked_at: of these.
    """

    prompts: int | None
    looked_at: int
    mean: float
    longest: int
    response: int
    known: bool

    def __str__(self) -> str:
        seen = "all prompts" if self.looked_at == self.prompts else f"{self.looked_at} prompts"
        how = (
            f"counted on {seen}"
            if self.known
            else f"assumed: no tokenizer, {CHARACTERS} characters a token, system prompt included, chat template not"
        )
        return f"{self.longest} at most and {self.mean:.0f} on average ({how})"


def lengths(resolved: Resolved, task: Task) -> Lengths:
    """Of the run's training prompts, `LOOKED_AT` of them evenly spread; of a stream its first ones."""
    examples = task.split("train")
    count = len(examples) if isinstance(examples, Sized) else None
    some = _some(examples, count)
    encode = _encode(resolved, task)
    if encode is None:
        chat = task.name not in EMBEDDED_TASKS
        system = len((resolved.config.system(task.system_prompt) or "") if chat else "")
        found = [math.ceil((system + _characters(example)) / CHARACTERS) for example in some]
    else:
        found = [len(encode(example)) for example in some]
    return Lengths(
        prompts=count,
        looked_at=len(found),
        mean=sum(found) / len(found),
        longest=max(found),
        response=resolved.config.rollout.max_tokens,
        known=encode is not None,
    )


def with_rows(step: Step, record: object, task: Task) -> Step:
    """The step, with the most responses that the data brings a prompt where a part of the record takes them from it."""
    draws = written_draws(record)
    if not draws:
        return step
    rows = [len(draw.rows(example)) for draw in draws for example in looked_at(task.split("train"))]
    return replace(step, samples=0, group=max(rows))


def _some(examples: Sequence[Example], count: int | None) -> list[Example]:
    if count is None:
        found = [example for example, _ in zip(examples, range(LOOKED_AT), strict=False)]
    else:
        found = [examples[i * count // min(LOOKED_AT, count)] for i in range(min(LOOKED_AT, count))]
    if not found:
        raise InputError("the training split has no prompts: give data that has some")
    return found


def _characters(example: Example) -> int:
    messages = example.meta.get("messages") or [{"content": example.prompt}]
    return sum(len(str(message["content"])) for message in messages)


def tokenizer_source(spec: str, task: str | None) -> str:
    """Where the tokenizer of the model `spec` is, a folder or a hub id; no weights need be there."""
    adapter = adapter_of(spec)
    return tokenizer_place(adapter, place(spec if adapter is None else adapter.base, task))


def _encode(resolved: Resolved, task: Task) -> Encode | None:
    """The run's own way of making prompts into tokens; None where the model's folder has no tokenizer."""
    config = resolved.config
    where = tokenizer_source(config.model, task.name)
    if Path(where).is_dir() and not has_tokenizer(Path(where)):
        return None
    encode = load_encode(
        config.model,
        where,
        task_name=task.name,
        system_prompt=config.system(task.system_prompt),
        chat_template=config.chat_template,
        thinking=config.thinking,
    )
    check_own_system(config, encode)
    return encode
