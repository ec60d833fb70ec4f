"""The options of a run that belong to no method: what is trained, how it samples, evaluates, checkpoints and tracks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field, fields, is_dataclass
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from rekindle.train import options

STRICT = ConfigDict(extra="forbid", strict=True)
Whole = Annotated[int, Field(ge=1)]
TASKS_OWN = "task"
"""The `system_prompt` that stands for the task's own."""
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Rollout:
    """How a step samples: `prompts` x `group` responses are trained on; `votes` responses a prompt decide the label.

    votes: None = as many as `group`. equal_samples: draw `votes` responses even where the method does not vote, so that
    methods are compared at equal sampling. top_k 0 and top_p 1: the full distribution. block: prompts decoded
    together; admit: and others as soon as there is room (the local sampler; faster for small models, see `Sampling`).
    sampler: "local" decodes with the model that is trained, "vllm" with a copy that is brought up to date and checked.
    """

    prompts: Whole = 8
    group: Whole = 32
    votes: Whole | None = None
    equal_samples: bool = False
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Count = 0
    max_tokens: Whole = 96
    stop: tuple[str, ...] = ()
    block: Whole = 8
    admit: bool = False
    sampler: Literal["local", "vllm"] = "local"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Vllm:
    """vLLM as the sampler. url: of a `rekindle serve`; None: in this process, where the next six count.

    dtype: None as the run's. max_model_len: longest prompt and response, None as the data needs. seats: sequences
    decoded at once. memory: share of the device's memory (on a CPU: as much as the seats need). eager: no compilation,
    None: on a CPU. sleep: on a GPU, the engine gives its memory back while the model trains.

    correct: truncated importance sampling by token, capped at 2, around the method's aggregate. probe: responses drawn
    and scored after each push (0: none). tolerance: mean difference of log-probs in nats that is let pass, None by
    dtype (of one that you set, the largest single difference may be a hundred times). timeout: seconds that a server
    may take to answer.
    """

    url: str | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    max_model_len: Whole | None = None
    seats: Whole = 256
    memory: Annotated[float, Field(gt=0, lt=1)] = 0.3
    eager: bool | None = None
    sleep: bool = True
    correct: bool = True
    probe: Count = 8
    tolerance: Annotated[float, Field(gt=0)] | None = None
    timeout: Annotated[float, Field(gt=0)] = 600.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluate:
    """Evaluation while training: `every` so many steps (0: never), `samples` responses to each of `prompts` prompts.

    baseline: a label-free run with known answers first measures its frozen start model, the line to beat.
    """

    every: Count = 0
    prompts: Whole = 64
    samples: Whole = 32
    baseline: bool = True


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Checkpoint:
    """A checkpoint `every` so many steps and after the last (0: only the final model); the last `keep` stay.

    rollouts: keep the samples of every so many steps in `rollouts/` (0: none).
    """

    every: Count = 20
    keep: Whole = 2
    rollouts: Count = 1


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Track:
    """Where events go besides events.jsonl: "tensorboard", "trackio", "wandb"."""

    sinks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunConfig:
    """All of a run but its method's record.

    data_heldout, data_ood: files to evaluate on, for runs on `data`. embed: what novelty compares, "ngrams" or the
    start model's states. empty_steps: a run stops after so many steps in a row without any signal (0: never).
    system_prompt: "task" = the task's own, None = none, any other text = that text. one_shot: the id of the only
    example that is trained on (None: all); only: a file of ids, one a line, of those that are. dtype: of the weights;
    precision: "bf16" computes products in bfloat16 (autocast), the weights and the optimiser stay as they are.
    checkpointing: recompute each layer in the backward pass, for less memory and about a third more time.
    """

    method: str
    model: str = "embedded"
    task: str | None = "reduce"
    data: str | None = None
    data_heldout: str | None = None
    data_ood: str | None = None
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
    out: str | None = None
    embed: Literal["ngrams", "policy"] = "ngrams"
    rollout: Rollout = field(default_factory=Rollout)
    vllm: Vllm = field(default_factory=Vllm)
    evaluate: Evaluate = field(default_factory=Evaluate)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    track: Track = field(default_factory=Track)

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
class Voting(Protocol):
    """A label that says whether it votes."""

    votes: bool


def parts(node: Any) -> Iterator[Any]:
    """All parts of a record, outermost first."""
    yield node
    for _, child in options.children(node):
        yield from parts(child)


def samples_per_prompt(record: Any, rollout: Rollout) -> int:
    """Responses drawn a prompt: `votes` where a part of the method votes (or sampling is to be equal), else `group`."""
    voting = any(isinstance(part, Voting) and part.votes is True for part in parts(record))
    return rollout.votes if rollout.votes is not None and (voting or rollout.equal_samples) else rollout.group
