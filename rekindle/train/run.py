"""A run: what methods ask for (prompts, samples, scores, updates) and the state that a checkpoint must hold."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from rekindle.core.descend import backward
from rekindle.core.method import PolicyGradient
from rekindle.core.random import pack_key
from rekindle.core.schedules import plain
from rekindle.core.stages import Stages
from rekindle.core.types import Batch, Metrics, Update, add_metrics
from rekindle.errors import GuardStop
from rekindle.tokens.embed import Embed, HashedNgrams, PolicyStates
from rekindle.tokens.labels import Label, Verdicts
from rekindle.tokens.loader import Loaded, load_model
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.rewards import load_rewards
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.base import Sampler, Sampling
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.tokens.tasks.base import Task
from rekindle.tokens.verify import Verifier
from rekindle.train.config import Resolved
from rekindle.train.meter import meter
from rekindle.train.quarantine import quarantine
from rekindle.train.refusals import check_prompts, check_run
from rekindle.train.settings import samples_per_prompt


@dataclass(eq=False)
class Run:
    """The state of a run. `memory` holds what is saved besides weights and optimiser: plain numbers by name.

    method: all of the run. record: the method of this step, its schedules resolved to plain numbers.
    """

    resolved: Resolved
    method: PolicyGradient | Stages
    record: PolicyGradient
    task: Task
    loaded: Loaded
    policy: LMPolicy
    sampler: Sampler
    verifier: Verifier
    embed: Embed
    references: Mapping[str, Any]
    optimizer: torch.optim.Optimizer
    examples: Sequence[Example]
    folder: Path | None = None
    step_index: int = 0
    memory: dict[str, int] = field(default_factory=lambda: {"prompts": 0, "groups": 0})
    observed: Metrics = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    last_rollouts: list[tuple[Rollouts, Verdicts]] = field(default_factory=list)

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
        total, start = len(self.examples), self.memory["prompts"]
        self.memory["prompts"] += count
        orders = {e: self._order(e) for e in range(start // total, (start + count - 1) // total + 1)}
        return [self.examples[orders[i // total][i % total]] for i in range(start, start + count)]

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self.examples)))
        Random(f"{self.resolved.config.seed}/{epoch}").shuffle(order)
        return order

    def sample(self, examples: Sequence[Example]) -> Rollouts:
        """Responses of the current weights: `votes` a prompt where the method votes, else `group`."""
        began = time.perf_counter()
        n = samples_per_prompt(self.record, self.resolved.config.rollout)
        first = self.memory["groups"]
        self.memory["groups"] += len(examples)
        rollouts = self.sampler.sample(examples, n, sampling_of(self.resolved), self.key, first_group=first)
        self._spent("sample", began)
        return rollouts

    def score(self, batch: Batch) -> Batch:
        """The batch with every column that the method's parts need, at the weights that sampled it."""
        began = time.perf_counter()
        needs, micro = self.record.needs(), self.record.descent.micro_batch
        columns = self.policy.columns(batch, needs, self.references, micro_batch=micro)
        self._spent("score", began)
        return batch.with_columns(**columns)

    def observe(self, rollouts: Rollouts, verdicts: Verdicts, trained: Tensor) -> None:
        """Measure rollouts; nothing here reaches the update."""
        seen = meter(rollouts, verdicts, trained, self.label, self.verifier)
        self.observed = add_metrics(add_metrics(self.observed, seen), verdicts.metrics)
        self.last_rollouts.append((rollouts, verdicts))

    def gather(self, batch: Batch) -> Batch:
        """The batch of all ranks; one process has it already."""
        return batch

    def descend(self, part: Batch, method: PolicyGradient, index: int) -> Update:
        """One optimiser update. A loss or gradient that is not finite stops the run before it, the batch is kept."""
        began = time.perf_counter()
        descent = method.descent
        self.optimizer.zero_grad(set_to_none=True)
        loss, now, metrics = backward(self.policy, part, method, descent.micro_batch)
        parameters = [p for p in self.loaded.model.parameters() if p.requires_grad]
        limit = descent.grad_clip if descent.grad_clip > 0 else math.inf
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit).item()
        if not math.isfinite(loss) or not math.isfinite(norm):
            where = quarantine(self.folder, self.step_index, index, part, now)
            raise GuardStop(
                f"step {self.step_index}, update {index}: loss {loss:g}, gradient norm {norm:g}; stopped before the "
                f"optimiser step, the batch is in {where}; lower descent.lr or look at the scores, then --resume"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = plain(descent.lr)
        self.optimizer.step()
        more = {"loss": (loss, 1.0), "grad_norm": (norm, 1.0), "grad_clipped": (float(norm > limit), 1.0)}
        self._spent("update", began)
        return Update(batch=part, now=now, metrics=add_metrics(metrics, more), index=index)

    def _spent(self, what: str, began: float) -> None:
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - began


def sampling_of(resolved: Resolved) -> Sampling:
    """The sampler's settings of a run."""
    r = resolved.config.rollout
    return Sampling(
        temperature=r.temperature, top_p=r.top_p, top_k=r.top_k, max_tokens=r.max_tokens, stop=r.stop, block=r.block
    )


def make_run(resolved: Resolved, task: Task, folder: Path | None = None) -> Run:
    """Load everything a run needs, at its start weights. InputError where the model or the data cannot serve it."""
    check_run(resolved, task)
    config, method = resolved.config, resolved.record
    where = {"device": config.device, "dtype": config.dtype}
    loaded = load_model(config.model, task_name=task.name, system_prompt=config.system(task.system_prompt), **where)
    loaded.model.train()
    rewards = load_rewards(config.reward) if config.reward else None
    examples = task.split("train")
    check_prompts(loaded, examples, config.rollout.max_tokens)
    frozen = _frozen(loaded.model) if _wants_reference(method, config.embed) else None
    return Run(
        resolved=resolved,
        method=method,
        record=method.at(0.0),
        task=task,
        loaded=loaded,
        policy=LMPolicy(loaded.model, temperature=config.rollout.temperature),
        sampler=LocalSampler(loaded.model, loaded.tokenizer, loaded.encode),
        verifier=Verifier(task, rewards),
        embed=HashedNgrams() if frozen is None or config.embed == "ngrams" else PolicyStates(frozen, loaded.tokenizer),
        references={} if frozen is None else {"reference": frozen},
        optimizer=make_optimizer(loaded.model, method.methods[0]),
        examples=examples,
        folder=folder,
    )


def make_optimizer(model: torch.nn.Module, record: PolicyGradient) -> torch.optim.AdamW:
    """AdamW over the parameters that train, with the record's settings."""
    descent = record.descent
    parameters = [p for p in model.parameters() if p.requires_grad]
    betas = (descent.beta1, descent.beta2)
    return torch.optim.AdamW(parameters, lr=1.0, betas=betas, weight_decay=descent.weight_decay)


def _wants_reference(method: PolicyGradient | Stages, embed: str) -> bool:
    return embed == "policy" or any("reference" in need.passes for need in method.needs())


def _frozen(model: Any) -> Any:
    reference = copy.deepcopy(model)
    for parameter in reference.parameters():
        parameter.requires_grad_(False)
    return reference
