"""What a run refuses before its first step: a method, a model and data that do not fit together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import torch

from rekindle.errors import InputError
from rekindle.tokens.demonstrations import text_ids
from rekindle.tokens.labels import Label
from rekindle.tokens.loader import Loaded, context_length, resolve_device
from rekindle.tokens.quantized import quantization
from rekindle.tokens.reference_value import NO_ANSWERS
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.base import Task
from rekindle.tokens.tasks.lazy import Streamed, looked_at
from rekindle.tokens.tasks.written import BROUGHT
from rekindle.train.config import Resolved
from rekindle.train.fleets import check_fleet
from rekindle.train.opened import trains_adapter
from rekindle.train.ranks import ONE_RANK
from rekindle.train.retention import check_best
from rekindle.train.ruled import check_ruled
from rekindle.train.searches import check_search
from rekindle.train.settings import RunConfig, WholePrompts, parts, written_draws
from rekindle.train.shard import ADAPTER_IN_SHARES
from rekindle.train.teacher import check_teacher


def check_run(resolved: Resolved, task: Task, here: bool = True) -> None:
    """InputError for what cannot work with the data, the rewards, the number format or adapters.

    here: the run is one of this machine; else what its hardware must have is not looked at.
    """
    config = resolved.config
    check_best(config, task)
    check_ruled(config, resolved.record)
    check_fleet(config, resolved.record)
    check_teacher(config, resolved.record.passes())
    check_adapters(config, here)
    check_search(config, resolved.record)
    if config.chat_template is not None and not Path(config.chat_template).expanduser().is_file():
        raise InputError(f"chat_template '{config.chat_template}' cannot be read (no such file): name a Jinja file")
    if config.dtype == "bfloat16" and not trains_adapter(config):  # adapters stay in float32
        raise InputError(
            "weights in bfloat16 lose every update below a bf16 step: set dtype=float32, and precision=bf16 for speed"
        )
    if config.precision == "bf16" and config.dtype != "float32":
        raise InputError(f"precision=bf16 goes with float32 weights, and dtype is {config.dtype}: set dtype=float32")
    labels: list[Label] = [method.collect.label for method in resolved.record.methods]
    if config.reward and not all(label.needs_truth for label in labels):
        own = "the scores in the data" if written_draws(resolved.record) else "its own samples"
        raise InputError(f"method '{config.method}' scores by {own} and would ignore --reward: drop it")
    unlabelled = all(example.answer is None for example in looked_at(task.split("train")))
    if unlabelled and not config.reward and any(label.needs_truth for label in labels):
        raise InputError(
            f"method '{config.method}' needs answers and the data has none: add an 'answer' column, give --reward "
            "FILE.py:function, or use a label-free method such as evol_rl"
        )
    check_reads(resolved, task)
    if config.evaluate.every:
        check_labels(task)


def check_reads(resolved: Resolved, task: Task) -> None:
    """InputError where the data lacks what a part of the method reads: a column in a prompt, or any answer."""
    for part in parts(resolved.record):
        if isinstance(part, ReadsColumns):
            check_columns(resolved.config.method, part.example_columns, task)
        if isinstance(part, ReadsAnswers) and all(
            e.answer is None for e in looked_at(task.split(evaluated_split(task)))
        ):
            raise InputError(NO_ANSWERS)


def check_adapters(config: RunConfig, here: bool) -> None:
    """InputError where weights in shares or in few bits do not go with what trains. here: as `check_run`."""
    quantize = config.lora.quantize
    if config.shard == "full" and config.ranks == 1:
        raise InputError(ONE_RANK)
    if config.shard == "full" and trains_adapter(config):
        raise InputError(ADAPTER_IN_SHARES)
    if quantize != "none" and not trains_adapter(config):
        raise InputError(f"lora.quantize={quantize} freezes the weights, and nothing would train: add --lora RANK")
    if here:
        quantization(quantize, resolve_device(config.device), torch.float32)


@runtime_checkable
class ReadsColumns(Protocol):
    """A part that reads columns of the data besides prompt and answer."""

    example_columns: ClassVar[tuple[str, ...]]


@runtime_checkable
class ReadsAnswers(Protocol):
    """A part that scores responses by answers, of the split that a run is evaluated on."""

    reads_answers: ClassVar[bool]


def check_columns(method: str, columns: Sequence[str], task: Task) -> None:
    """InputError naming the first training prompt that lacks a column."""
    for column in columns:
        lacking = [example.id for example in looked_at(task.split("train")) if not example.meta.get(column)]
        if lacking:
            raise InputError(
                f"method '{method}' needs a column '{column}' and prompt '{lacking[0]}' has none ({len(lacking)} lack "
                f"it): {_remedy(column)}, or use another method"
            )


def _remedy(column: str) -> str:
    plain = "add it to every row of the data"
    return f"{plain}, or write rows of {BROUGHT[column]}" if column in BROUGHT else plain


def check_prompts(
    loaded: Loaded, examples: Sequence[Example], max_tokens: int, option: str = "rollout.max_tokens"
) -> None:
    """InputError naming the first prompt that leaves no room for `max_tokens` (`option`) in the model's context."""
    for example in looked_at(examples):
        check_prompt(loaded, max_tokens, option, example)


def check_prompt(loaded: Loaded, max_tokens: int, option: str, example: Example) -> None:
    """InputError where a prompt leaves no room for `max_tokens` (`option`) in the model's context."""
    limit = context_length(loaded.model)
    length = len(loaded.encode(example))
    if limit is not None and length + max_tokens > limit:
        raise InputError(
            f"prompt '{example.id}' has {length} tokens, which with {option}={max_tokens} exceeds the model's "
            f"context of {limit}: shorten or drop it, or give a smaller {option}"
        )


def fitting(loaded: Loaded, examples: Sequence[Example], max_tokens: int) -> Sequence[Example]:
    """`examples`, checked by `check_prompts`; of streamed ones each is checked again when it is read."""
    check_prompts(loaded, examples, max_tokens)
    if not isinstance(examples, Streamed):
        return examples
    return examples.checked(partial(check_prompt, loaded, max_tokens, "rollout.max_tokens"))


def check_written(loaded: Loaded, record: object, examples: Sequence[Example], max_tokens: int) -> None:
    """InputError naming the first prompt with a response that is empty, or longer than `max_tokens`.

    Only of responses that a part of the record takes from the data; where a part compares those of a prompt, also where
    no prompt has two whose scores differ.
    """
    draws = written_draws(record)
    compares = any(isinstance(part, WholePrompts) for part in parts(record))
    for draw in draws if compares else ():
        if all(len({score for _, score in draw.rows(example)}) < 2 for example in looked_at(examples)):
            raise InputError(
                "the method compares the responses of a prompt, and no prompt of the data has two whose scores differ: "
                "give a prompt several scored completions, or use a method that takes each by itself (a_lol, wbc, sft)"
            )
    for example, text in ((e, text) for draw in draws for e in looked_at(examples) for text, _ in draw.rows(e)):
        if not text:
            raise InputError(f"prompt '{example.id}' has an empty response: write one or drop the row")
        text_ids(example, "response", text, tokenizer=loaded.tokenizer, max_tokens=max_tokens)


def check_labels(task: Task) -> None:
    """InputError where the run is to be evaluated on examples of which none has an answer."""
    if all(example.answer is None for example in task.split(evaluated_split(task))):
        raise InputError(
            "the data has no answers to evaluate on: set evaluate.every=0, add an 'answer' column, or name rows of "
            "prompt and answer by data_heldout"
        )


def evaluated_split(task: Task) -> str:
    """The split that a run is evaluated on: "train" stands in where there is no held-out one."""
    return "heldout" if "heldout" in task.splits else "train"
