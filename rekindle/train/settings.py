"""The options of a run that belong to no method (`RunConfig`), and what parts of a method say of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field, fields, is_dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic.dataclasses import dataclass

from rekindle.tokens.offline import BringsRows
from rekindle.train import options
from rekindle.train.sections import (
    STRICT,
    Checkpoint,
    Count,
    Evaluate,
    Grading,
    Lora,
    Ray,
    Rollout,
    Track,
    Vllm,
    Whole,
)
from rekindle.train.sections_watch import Guards, Watch

TASKS_OWN = "task"
"""The `system_prompt` that stands for the task's own."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunConfig:
    """All of a run but its method's record.

    teacher: a causal LM with the model's tokenizer, for methods that learn from one (folder, hub id or "embedded").
    data: a JSONL, JSON or parquet file, a folder of `datasets`, or a hub id. data_heldout, data_ood: the same, to
    evaluate on. data_layout: how its columns are read ("auto": by their names); data_config, data_split: of a data set
    that has several; data_prompt, data_answer: the columns, where they have other names; streaming: read it as it is
    used. embed: what novelty compares, "ngrams" or the
    start model's states. empty_steps: a run stops after so many steps in a row without any signal (0: never).
    system_prompt: "task" = the task's own, None = none, any other text = that text. one_shot: the id of the only
    example that is trained on (None: all); only: a file of ids, one a line, of those that are. dtype: of the weights;
    precision: "bf16" computes products in bfloat16 (autocast), the weights and the optimiser stay as they are.
    checkpointing: recompute each layer in the backward pass, for less memory and about a third more time.
    chat_template: a file with the template to use instead of the tokenizer's; thinking: what the template is told of
    `enable_thinking` (None: nothing). ranks: processes that share every step; shard: "none" a whole model each (DDP),
    "full" its weights, gradients and optimiser in shares (FSDP2).
    """

    method: str
    model: str = "embedded"
    teacher: str | None = None
    task: str | None = "reduce"
    data: str | None = None
    data_heldout: str | None = None
    data_ood: str | None = None
    data_layout: str = "auto"
    data_config: str | None = None
    data_split: str = "train"
    data_prompt: str | None = None
    data_answer: str | None = None
    streaming: bool = False
    system_prompt: str | None = TASKS_OWN
    reward: tuple[str, ...] = ()
    one_shot: str | None = None
    only: str | None = None
    steps: Whole = 100
    seed: Count = 0
    empty_steps: Count = 20
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    precision: Literal["full", "bf16"] = "full"
    checkpointing: bool = False
    chat_template: str | None = None
    thinking: bool | None = None
    ranks: Whole = 1
    shard: Literal["none", "full"] = "none"
    out: str | None = None
    embed: Literal["ngrams", "policy"] = "ngrams"
    rollout: Rollout = field(default_factory=Rollout)
    vllm: Vllm = field(default_factory=Vllm)
    ray: Ray = field(default_factory=Ray)
    lora: Lora = field(default_factory=Lora)
    grading: Grading = field(default_factory=Grading)
    guards: Guards = field(default_factory=Guards)
    evaluate: Evaluate = field(default_factory=Evaluate)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    track: Track = field(default_factory=Track)
    watch: Watch = field(default_factory=Watch)

    def system(self, own: str | None) -> str | None:
        """The system prompt of the run, given the task's `own`."""
        return own if self.system_prompt == TASKS_OWN else self.system_prompt

    def flat(self) -> dict[str, Any]:
        """Dotted path -> value, without the names of the sections."""
        sections = {f.name for f in fields(self) if is_dataclass(getattr(self, f.name))}
        return {path: value for path, value in options.flatten(self).items() if path not in sections}


@runtime_checkable
class Grouped(Protocol):
    """An advantage that says whether it compares the responses of a group."""

    needs_group: bool


@runtime_checkable
class Labelling(Protocol):
    """A label that says whether it reads references."""

    needs_truth: bool


@runtime_checkable
class PositiveSignal(Protocol):
    """A part that makes right answers likelier where a whole group is right."""

    positive_signal: bool


@runtime_checkable
class Gives(Protocol):
    """A part that says what others will have to live with."""

    gives: tuple[str, ...]


@runtime_checkable
class Refuses(Protocol):
    """A part that says what it cannot live with."""

    refuses: tuple[str, ...]


@runtime_checkable
class WholePrompts(Protocol):
    """A part that compares the responses of a prompt in a minibatch."""

    whole_prompts: bool


@runtime_checkable
class Voting(Protocol):
    """A label that says whether it votes."""

    votes: bool


def parts(node: Any) -> Iterator[Any]:
    """All parts of a record, outermost first."""
    yield node
    for _, child in options.children(node):
        yield from parts(child)


def written_draws(record: Any) -> list[BringsRows]:
    """The parts of a record that take its responses from the data."""
    return [part for part in parts(record) if isinstance(part, BringsRows)]


def samples_per_prompt(record: Any, rollout: Rollout) -> int:
    """Responses drawn a prompt: `votes` where a part of the method votes (or sampling is to be equal), else `group`."""
    voting = any(isinstance(part, Voting) and part.votes is True for part in parts(record))
    return rollout.votes if rollout.votes is not None and (voting or rollout.equal_samples) else rollout.group
