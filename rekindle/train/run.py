"""A run: what methods ask for (prompts, samples, scores, updates) and the state that a checkpoint must hold."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rekindle.core.evolution import Method
from rekindle.core.method import PolicyGradient
from rekindle.core.opened import Opened
from rekindle.core.random import pack_key
from rekindle.core.ranks import Alone, Together
from rekindle.core.stages import Stages
from rekindle.core.types import LOGP_OLD, Batch, Metrics, Need, Update, add_metrics
from rekindle.tokens.embed import Embed
from rekindle.tokens.labels import Label, Verdicts
from rekindle.tokens.loader import Loaded
from rekindle.tokens.offline import Written, as_rollouts
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.sampling.base import Sampler, Sampling
from rekindle.tokens.sampling.rules import StepRule
from rekindle.tokens.stream import stretch
from rekindle.tokens.tasks.base import Task
from rekindle.tokens.verify import Verifier
from rekindle.train.agreement import agreement
from rekindle.train.ahead import Ahead
from rekindle.train.candidates import factor_pairs, tried
from rekindle.train.config import Resolved
from rekindle.train.corrected import cap_of
from rekindle.train.drawn import drawn, sampling_of, visits
from rekindle.train.halt import Halt, Halted
from rekindle.train.levels import look_over
from rekindle.train.memory import memory_told
from rekindle.train.meter import meter
from rekindle.train.ruled import under
from rekindle.train.settings import samples_per_prompt
from rekindle.train.shard import Copy, ShardedPolicy
from rekindle.train.snapshots import renew
from rekindle.train.together import Scores, refuse_unlike, shared_columns
from rekindle.train.update import updated


@dataclass(eq=False)
class Run:
    """The state of a run. `memory` holds what is saved besides weights and optimiser: plain JSON values by name.

    `memory["history"]` has the share of successes of each visit of each prompt, oldest first; watched: what warnings go
    by, saved, none of which reaches an update; kept: tensors that parts keep, saved too; live: what is made again from
    these. method: of all the run; record: that of this step, schedules resolved to numbers. halt: what signals ask of
    it. reopened: the step that its checkpoint stands in, with what that had observed and drawn. references: the other
    passes by name. foreign_ends: tokens that end a text for the policy, not for its teacher. trained: the uids of the
    last batch. ranks: that take its steps together; shares, copy: its weights where each holds a part, and whole.
    """

    resolved: Resolved
    method: Method | Stages
    record: Any
    task: Task
    loaded: Loaded
    policy: LMPolicy
    sampler: Sampler
    verifier: Verifier
    embed: Embed
    references: dict[str, Any]
    optimizer: torch.optim.Optimizer
    examples: Sequence[Example]
    folder: Path | None = None
    foreign_ends: tuple[int, ...] = ()
    step_index: int = 0
    drawn: int = 0
    memory: dict[str, Any] = field(default_factory=lambda: {"prompts": 0, "groups": 0, "empty_steps": 0, "history": {}})
    watched: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    live: dict[str, Any] = field(default_factory=dict)
    observed: Metrics = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    last_rollouts: list[tuple[Rollouts, Verdicts]] = field(default_factory=list)
    trained: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    stale: bool = True
    halt: Halt = field(default_factory=Halt)
    reopened: Opened | None = None
    reopened_counts: tuple[Metrics, int] = field(default_factory=lambda: ({}, 0))
    ahead: Ahead | None = None
    ranks: Together = field(default_factory=Alone)
    shares: ShardedPolicy | None = None
    copy: Copy | None = None

    @property
    def scores(self) -> Scores:
        """The policy as it is called: with its weights in shares where they are."""
        return self.policy if self.shares is None else self.shares

    @property
    def prompts_per_step(self) -> int:
        """Prompts trained on in a step."""
        return self.resolved.config.rollout.prompts

    @property
    def group_size(self) -> int:
        """Responses of a prompt that are trained on."""
        return self.resolved.config.rollout.group

    @property
    def max_tokens(self) -> int:
        """Longest response."""
        return self.resolved.config.rollout.max_tokens

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.loaded.tokenizer

    @property
    def label(self) -> Label:
        """What says which responses are successes."""
        collect: Any = self.record.collect
        return collect.label

    @property
    def key(self) -> Tensor:
        """The counter-based key of this step."""
        return pack_key(self.resolved.config.seed, self.step_index, 0)

    def next_examples(self, count: int) -> list[Example]:
        """The next `count` prompts of an endless stream: every epoch a shuffle that depends on seed and epoch only."""
        if self.ahead is not None:
            return self.ahead.examples(self, count)
        start = self.memory["prompts"]
        self.memory["prompts"] += count
        return stretch(self.examples, start, count, self.resolved.config.seed)

    def sample(self, examples: Sequence[Example], rule: StepRule | None = None) -> Rollouts:
        """Responses of the current weights: `votes` a prompt where the method votes, else `group`.

        rule: how each token is drawn, where not from the policy alone; `InputError` where the sampler cannot.
        """
        n = samples_per_prompt(self.record, self.resolved.config.rollout)
        if self.ahead is not None:
            return self.ahead.rollouts(self, examples)
        return self._draw(examples, n, sampling_of(self.resolved), rule)

    def greedy(self, examples: Sequence[Example]) -> Rollouts:
        """The most likely response of the current weights to each prompt."""
        return self._draw(examples, 1, replace(sampling_of(self.resolved), top_k=1))

    def tried(self, examples: Sequence[Example], greedy: bool) -> Rollouts:
        """A response to each prompt by this rank's weights, whatever those of other ranks are."""
        return tried(self, examples, greedy)

    def factors(self) -> list[tuple[Tensor, Tensor]]:
        """(A, B) of the adapter, layer by layer: the tensors themselves."""
        return factor_pairs(self.loaded.model)

    def recorded(self, rows: Sequence[tuple[Example, Sequence[Written]]]) -> Rollouts:
        """Responses that the data brings, each with its score: a group an example; nothing is sampled."""
        first, uid = self.memory["groups"], self.memory.get("recorded", 0)
        self.memory["groups"] += len(rows)
        self.memory["recorded"] = uid + sum(len(texts) for _, texts in rows)
        prompts = self.prompt_rows([example for example, _ in rows])
        return as_rollouts(rows, prompts.ids, self, first, uid)

    def prompt_rows(self, examples: Sequence[Example]) -> PromptRows:
        """The prompts as token ids."""
        return PromptRows(tuple(tuple(self.loaded.encode(example)) for example in examples))

    def snapshot(self, name: str) -> None:
        """The pass `name` gets the weights of now; from here on it is saved with the run."""
        renew(self.references, self.memory, self.loaded.model if self.copy is None else self.copy.refresh(), name)

    def fresh(self) -> None:
        """Bring the sampler to the current weights, where they have changed since it was last told."""
        if self.stale:
            began = time.perf_counter()
            self.observed = add_metrics(self.observed, self.sampler.push())
            self.stale = False
            self._spent("push", began)

    def _draw(self, examples: Sequence[Example], n: int, sampling: Sampling, rule: StepRule | None = None) -> Rollouts:
        self.fresh()
        began = time.perf_counter()
        first = self.memory["groups"]
        self.memory["groups"] += len(examples)
        rollouts = under(rule, self.sampler, self.references).sample(examples, n, sampling, self.key, first_group=first)
        self.drawn += len(rollouts)
        self._spent("sample", began)
        return rollouts

    def score(self, batch: Batch, also: Sequence[Need] = ()) -> Batch:
        """The batch with what the method's parts and `also` need, at the weights that sampled it."""
        began = time.perf_counter()
        if self.sampler.apart is not None:  # its tokens are compared with the model before any update
            also = (*also, LOGP_OLD)
        needs, micro = tuple(dict.fromkeys((*self.record.needs(), *also))), self.record.descent.micro_batch
        with memory_told(self.policy, batch, micro, self.resolved.config.checkpointing):
            columns = shared_columns(self.scores, batch, needs, self.references, micro, self.ranks)
        self._spent("score", began)
        return batch.with_columns(**columns)

    def observe(self, rollouts: Rollouts, verdicts: Verdicts, trained: Tensor) -> None:
        """Measure rollouts; nothing here reaches the update."""
        seen = meter(rollouts, verdicts, trained, self.label, self.verifier)
        self.observed = add_metrics(add_metrics(self.observed, seen), verdicts.metrics)
        self.last_rollouts.append((rollouts, verdicts))
        for prompt, share in visits(rollouts, verdicts):
            self.memory["history"].setdefault(prompt, []).append(share)

    def gather(self, batch: Batch) -> Batch:
        """The batch, which all ranks have: the same, or the run stops; so where the sampler drew from other weights."""
        refuse_unlike(batch, self.step_index, self.ranks)
        look_over(self, batch)
        self.trained = batch.uid
        if self.sampler.apart is not None:
            uids = [rollouts.uid[drawn(rollouts)] for rollouts, _ in self.last_rollouts]
            told = agreement(batch, uids, self.sampler.apart, cap_of(self.record.aggregate))
            self.observed = add_metrics(self.observed, told)
        return batch

    def opened(self) -> Opened | None:
        """The step that the run was in when it was saved, once; None where a step begins."""
        opened, self.reopened = self.reopened, None
        if opened is not None:
            self.observed, self.drawn = self.reopened_counts
        return opened

    def between(self, opened: Opened) -> None:
        """Called before every update of a step; `Halted` where a signal asked for a stop."""
        if self.halt.agreed(self.ranks) is not None:
            raise Halted(opened)

    def descend(self, part: Batch, method: PolicyGradient, index: int) -> Update:
        """One optimiser update. A loss or gradient that is not finite stops the run before it, the batch is kept."""
        began = time.perf_counter()
        update = updated(self, part, method, index)
        self._spent("update", began)
        return update

    def trainable(self) -> list[tuple[str, torch.nn.Parameter]]:
        """The parameters that train, by name: the model's, and those of its heads as `heads.NAME.weight`."""
        model = [(n, p) for n, p in self.loaded.model.named_parameters() if p.requires_grad]
        return model + [(f"heads.{n}", p) for n, p in self.policy.heads.named_parameters()]

    def _spent(self, what: str, began: float) -> None:
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - began
