"""How fast a run will be: one block sampled and one forward pass trained on, in about ten seconds, and carried on.

A throw-away copy of the model does it: no run folder is touched and no random state either.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch

from rekindle.core.descend import backward
from rekindle.core.random import pack_key
from rekindle.core.types import Batch
from rekindle.methods import grpo
from rekindle.tokens.collect import to_batch
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.packed import checkpoint_layers
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.tokens.tasks.base import Task
from rekindle.train.build import make_heads, make_optimizer
from rekindle.train.drawn import sampling_of
from rekindle.train.launch import threads_of
from rekindle.train.opened import start_model
from rekindle.train.plan import Plan
from rekindle.train.ruled import DrawsByRule
from rekindle.train.settings import parts

T = TypeVar("T")

LIMIT = 10.0
"""Seconds."""
_LOADABLE = {True: 16 * 2**30, False: 2 * 2**30}  # bytes of weights that load in a few seconds, on a GPU and on a CPU
ENOUGH = 2.5
"""Seconds after which a measurement is long enough, whatever is left of the time."""
_ROWS, _TOKENS = 2, 8  # of the first try
_SHARE = 0.45  # of the time that is left, for what is measured first


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What was measured, and a step of the run by it.

    prompts, samples, tokens: of the block that was sampled (tokens: the limit of a response); rows: of the forward
    pass. cut: whether these are less than the run's. response: tokens a response on average. sampling: tokens a second
    of one rank. step: seconds, by part. run: hours. seconds: that the probe took.
    """

    prompts: int
    samples: int
    tokens: int
    rows: int
    cut: bool
    response: float
    sampling: float
    step: dict[str, float]
    run: float
    seconds: float


def probe(plan: Plan, task: Task) -> Speed | str:
    """The measurement, or the reason that there is none.

    It aims at `LIMIT` seconds: nothing is measured at a larger size that would exceed them, by what the smaller one
    took, and what has begun is not cut off.
    """
    if not plan.step.samples:
        return "not measured: the probe times what is sampled, and the responses of this run are the data's"
    config, weights = plan.resolved.config, plan.memory.held["weights"]
    if config.rollout.sampler != "local":
        return f"not measured: the probe samples with the local sampler, and the run with {config.rollout.sampler}"
    if any(isinstance(part, DrawsByRule) for part in parts(plan.resolved.record)):
        return "not measured: the probe draws from the whole distribution, and the run under a rule"
    if weights > _LOADABLE[plan.hardware.gpu]:
        return f"not measured: a model of {weights / 2**30:.1f} GiB would not load and step within {LIMIT:.0f} seconds"
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]), threads_of(config.ranks):
        rig = Rig.of(plan, task)
        left = LIMIT - (time.perf_counter() - began)
        if left < LIMIT / 4:
            return f"not measured: loading the model took {LIMIT - left:.1f} of {LIMIT:.0f} seconds"
        block = rig.block(_SHARE * left)
        update = NONE if plan.step.searches else rig.update(block.rollouts, LIMIT - (time.perf_counter() - began))
    return _carried_on(plan, block, update, time.perf_counter() - began)


def _carried_on(plan: Plan, block: Block, update: Trained, seconds: float) -> Speed:
    """From tokens a second to hours: every rank as fast as this one, responses as long as the probe's."""
    step, limit = plan.step, plan.resolved.config.rollout.max_tokens
    whole = block.tokens == limit or "length" not in block.rollouts.finish
    response = block.drawn / len(block.rollouts) if whole else float(limit)
    share = step.passes_a_rank / step.passes if step.passes else 0.0
    trained = step.trained * response
    parts = {
        "sample": step.sampled * response / block.rate * step.drawing_share,
        "score": trained * update.score * share,
        "update": step.epochs * trained * update.gradient * share + step.updates * update.optimizer,
    }
    return Speed(
        prompts=block.prompts,
        samples=block.samples,
        tokens=block.tokens,
        rows=update.rows,
        cut=(block.prompts, block.samples, block.tokens, update.rows) != (step.block, step.samples, limit, step.rows),
        response=response,
        sampling=block.rate,
        step=parts,
        run=sum(parts.values()) * plan.resolved.config.steps / 3600,
        seconds=seconds,
    )


@dataclass(frozen=True, eq=False)
class Block:
    """What was sampled in `seconds`: `samples` responses of at most `tokens` tokens to each of `prompts` prompts."""

    rollouts: Rollouts
    prompts: int
    samples: int
    tokens: int
    seconds: float

    @property
    def drawn(self) -> float:
        """Tokens."""
        return float(self.rollouts.mask.sum())

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.drawn / self.seconds


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Seconds of an update. rows: of the forward pass that was measured; gradient, score: a response token."""

    rows: int
    gradient: float
    score: float
    optimizer: float


NONE = Trained(rows=0, gradient=0.0, score=0.0, optimizer=0.0)
"""Of a method that searches."""


@dataclass(frozen=True, eq=False)
class Rig:
    """A model with what samples it and trains it, as the run would have them."""

    plan: Plan
    examples: list[Example]
    policy: LMPolicy
    sampler: LocalSampler
    optimizer: torch.optim.Optimizer

    @staticmethod
    def of(plan: Plan, task: Task) -> Rig:
        """Loads the model; InputError as a run would raise it."""
        config, method = plan.resolved.config, plan.resolved.record
        loaded = start_model(config, task)
        sampler = LocalSampler(loaded.model, loaded.tokenizer, loaded.encode, config.precision)
        if config.checkpointing:
            checkpoint_layers(loaded.model)
        heads = make_heads(loaded.model, method)
        policy = LMPolicy(loaded.model, temperature=config.rollout.temperature, precision=config.precision, heads=heads)
        examples = [e for e, _ in zip(task.split("train"), range(plan.step.block), strict=False)]
        return Rig(plan, examples, policy, sampler, make_optimizer(loaded.model, method.methods[0], heads))

    def draw(self, prompts: int, samples: int, tokens: int) -> Rollouts:
        """A block of this size."""
        settings = replace(sampling_of(self.plan.resolved), max_tokens=tokens, block=prompts)
        return self.sampler.sample(self.examples[:prompts], samples, settings, pack_key(0, 0, 0), first_group=0)

    def block(self, left: float) -> Block:
        """A block of the run's shape, or as much of it as `left` seconds allow: first rows grow, then lengths."""
        step, limit = self.plan.step, self.plan.resolved.config.rollout.max_tokens
        shape, spent = (1, min(_ROWS, step.samples), min(_TOKENS, limit)), 0.0
        self.draw(*shape)  # the first call lays things out
        while True:
            seconds, rollouts = self.timed(partial(self.draw, *shape))
            spent += seconds
            prompts, samples, tokens = shape
            larger = (prompts, min(2 * samples, step.samples), tokens)
            if samples == step.samples:
                larger = (min(2 * prompts, len(self.examples)), samples, tokens)
            if (prompts, samples) == (len(self.examples), step.samples):
                larger = (prompts, samples, min(2 * tokens, limit))
            if larger == shape or seconds > ENOUGH or spent + 2 * seconds > left:
                return Block(rollouts, *shape, seconds)
            shape = larger

    def update(self, block: Rollouts, left: float) -> Trained:
        """A forward and backward pass of the run's rows, or of as many as `left` seconds allow."""
        batch, spent = _batch(block), 0.0
        most, rows = min(self.plan.step.rows, len(batch)), min(_ROWS, len(batch))
        self.backward(batch.take(torch.arange(rows)))
        optimizer, _ = self.timed(self.optimizer.step)
        passes = 1 + 2 * bool(self._needs())
        while True:
            some = batch.take(torch.arange(rows))
            seconds, _ = self.timed(partial(self.backward, some))
            spent += seconds
            if rows == most or seconds > ENOUGH or spent + 2 * passes * seconds > left:
                break
            rows = min(2 * rows, most)
        tokens = max(1.0, float(some.mask.sum()))
        scored = min(self.timed(partial(self.score, some))[0] for _ in range(2)) if self._needs() else 0.0
        return Trained(rows=rows, gradient=seconds / tokens, score=scored / tokens, optimizer=optimizer)

    def backward(self, batch: Batch) -> None:
        """Loss and gradient; in two passes where the run's method takes two."""
        method = grpo.method()
        batch = batch.with_columns(advantage=torch.ones_like(batch.mask, dtype=torch.float64))
        two = not all(one.separable for one in self.plan.resolved.record.methods)
        self.optimizer.zero_grad(set_to_none=True)
        backward(self.policy, batch, method, len(batch), two_pass=two, fresh=True)

    def score(self, batch: Batch) -> None:
        """The scoring pass of the run's method; the model itself stands for a reference."""
        passes = {name for need in self._needs() for name in need.passes} - {"policy"}
        models = dict.fromkeys(passes, self.policy.model)
        self.policy.columns(batch, self._needs(), models, micro_batch=len(batch))

    def _needs(self) -> tuple[Any, ...]:
        return tuple(self.plan.resolved.record.methods[0].needs())

    def timed(self, work: Callable[[], T]) -> tuple[float, T]:
        """(seconds, what it gave), with the GPU's work done."""
        began = time.perf_counter()
        done = work()
        if self.policy.parts.device.type == "cuda":
            torch.cuda.synchronize(self.policy.parts.device)
        return time.perf_counter() - began, done


def _batch(rollouts: Rollouts) -> Batch:
    """The rows as a batch, every one a success."""
    count = len(rollouts)
    yes = torch.ones(count, dtype=torch.bool)
    verdicts = Verdicts(answer=[None] * count, success=yes, graded=yes, score=yes.double(), vote={})
    return to_batch(rollouts, verdicts, pack_key(0, 0, 0))
