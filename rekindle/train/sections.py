"""The sections of a run's options: how it samples, adapts, grades, evaluates, checkpoints, tracks and is watched."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", strict=True)
Whole = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Rollout:
    """How a step samples: `prompts` x `group` responses are trained on; `votes` responses a prompt decide the label.

    votes: None = as many as `group`. equal_samples: draw `votes` responses even where the method does not vote, so that
    methods are compared at equal sampling. top_k 0 and top_p 1: the full distribution. block: prompts decoded
    together; admit: and others as soon as there is room (the local sampler; faster for small models, see `Sampling`).
    sampler: "local" decodes with the model that is trained, "vllm" with a copy that is brought up to date and checked,
    "ray" with a fleet of such copies (section `ray`).
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
    sampler: Literal["local", "vllm", "ray"] = "local"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Vllm:
    """vLLM as the sampler. url: of a `rekindle serve`; None: in this process, where the next six count. token_file: of
    mode 600, with the server's token (None: $REKINDLE_TOKEN, where the server asks for one).

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
    token_file: str | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Ray:
    """A fleet of samplers on Ray. engine: what each of the `samplers` actors holds.

    address: of a running cluster ("auto": the one that this machine is part of), None: start one here for this run.
    staleness: a step may train on responses of weights that are up to so many steps old, drawn while those trained.
    cpus, gpus: that Ray reserves an actor; threads: that an actor computes with. depth: blocks handed to an actor at
    once. health: seconds without an answer after which a silent actor is asked whether it lives. restarts: of all
    actors together, before the run gives up.
    """

    samplers: Whole = 2
    engine: Literal["local", "vllm"] = "local"
    address: str | None = None
    staleness: Count = 0
    cpus: Annotated[float, Field(gt=0)] = 1.0
    gpus: Annotated[float, Field(ge=0)] = 0.0
    threads: Whole = 1
    depth: Whole = 2
    health: Annotated[float, Field(gt=0)] = 60.0
    restarts: Count = 16


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Lora:
    """Low-rank adapters by PEFT instead of all weights. rank 0: none, every weight trains.

    alpha: None = twice the rank. targets: names of modules, or "all-linear". quantize: the frozen base in 8 or 4 bits
    by bitsandbytes (QLoRA). merge: leave the merged model in `final-merged/`, beside the adapter in `final/`.
    """

    rank: Count = 0
    alpha: Annotated[float, Field(gt=0)] | None = None
    targets: tuple[str, ...] = ("all-linear",)
    quantize: Literal["none", "8bit", "4bit"] = "none"
    merge: bool = True


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Grading:
    """How an answer is found in a response and compared with the reference of a data file.

    by: "exact" by value of numbers and by text, "math" by math-verify where the exact way says no, "choice" by letter,
    "json" against the row's schema, "code" by the row's tests. extract: where the answer stands; the last of its kind
    counts. deadline: seconds a sample, after which its worker is killed and the sample fails. workers: processes.
    cache: grades remembered. sandbox: FILE.py:function or module:function that runs the programs of "code" elsewhere;
    unsafe_sandbox: run them here even where they can read the user's files or reach the network.
    """

    by: Literal["exact", "math", "choice", "json", "code"] = "exact"
    extract: Literal["boxed", "hash", "last_number", "choice", "whole", "any"] = "boxed"
    deadline: Annotated[float, Field(gt=0)] = 10.0
    workers: Whole = 2
    cache: Count = 100_000
    sandbox: str | None = None
    unsafe_sandbox: bool = False


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

    best: and that of the highest value of a metric of the evaluations, such as "pass@16" (None: no such); archive: and
    those of every so many steps (0: none).
    rollouts: keep the samples of every so many steps in `rollouts/` (0: none). digests: record 64 bits of every tensor
    that trains after every so many steps (0: never), for `bisect` and `replay`. tokens: the kept samples have their
    token ids, log-probs and entropies, too, for `replay` and for what looks at single tokens.
    """

    every: Count = 20
    keep: Whole = 2
    best: str | None = None
    archive: Count = 0
    rollouts: Count = 1
    digests: Count = 1
    tokens: bool = True


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Track:
    """Where events go besides events.jsonl: "tensorboard", "trackio", "wandb"."""

    sinks: tuple[str, ...] = ()
