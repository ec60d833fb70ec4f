"""A run on a table world: all that method records ask of a run, and what the beds measure of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rekindle.core.descend import backward
from rekindle.core.groups import group_constant
from rekindle.core.method import PolicyGradient
from rekindle.core.opened import Opened
from rekindle.core.random import pack_key
from rekindle.core.schedules import plain
from rekindle.core.stages import Stages
from rekindle.core.types import LOGP_OLD, Batch, Metrics, Need, Update, add_metrics, mean_metrics
from rekindle.errors import GuardStop
from rekindle.prove.policy import TablePolicy, passes_of
from rekindle.prove.ruled import chosen_by
from rekindle.prove.setting import Setting
from rekindle.prove.world import Spelling, World
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.offline import Written, as_rollouts
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.sampling.rules import StepRule
from rekindle.tokens.stream import stretch
from rekindle.tokens.verify import Verifier
from rekindle.train.asked import asked
from rekindle.train.settings import Rollout, samples_per_prompt

COUNTS = ("prompts", "groups", "uids", "empty_steps")


@dataclass(eq=False)
class TableRun:
    """A run of `method` on a world, `record` being the method of this step.

    rewards: true success of each step's rollouts. mixed: share of mixed groups among those trained on. trained: the
    metrics of each step.
    """

    world: World
    setting: Setting
    method: PolicyGradient | Stages
    seed: int
    record: PolicyGradient = field(init=False)
    policy: TablePolicy = field(init=False)
    references: dict[str, TablePolicy] = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    verifier: Verifier = field(init=False)
    tokenizer: Spelling = field(init=False)
    samples: int = field(init=False)
    step_index: int = 0
    sampled: int = 0
    memory: dict[str, Any] = field(default_factory=lambda: {**dict.fromkeys(COUNTS, 0), "history": {}})
    rewards: list[list[float]] = field(default_factory=list)
    mixed: list[float] = field(default_factory=list)
    trained: list[dict[str, float]] = field(default_factory=list)
    kept: dict[str, Tensor] = field(default_factory=dict)
    foreign_ends: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Weights at their start."""
        self.record = self.method.at(0.0)
        self.policy = TablePolicy(self.world, self.method.heads())
        self.references = passes_of(self.world, self.method.passes())
        descent = self.record.descent
        betas = (descent.beta1, descent.beta2)
        parameters, lr = list(self.policy.parameters()), plain(descent.lr)
        adam = self.setting.adam
        self.optimizer = torch.optim.Adam(parameters, lr, betas) if adam else torch.optim.SGD(parameters, lr)
        self.verifier = Verifier(self.world.task, self.world.rewards)
        self.tokenizer = Spelling(self.world.tokens)
        self.samples = samples_per_prompt(self.record, Rollout(group=self.setting.group, votes=self.setting.votes))

    def snapshot(self, name: str) -> None:
        """The pass `name` as the policy is now."""
        with torch.no_grad():
            self.references[name].table.copy_(self.policy.table)

    @property
    def prompts_per_step(self) -> int:
        """Prompts trained on in a step."""
        return self.setting.prompts

    @property
    def group_size(self) -> int:
        """Responses of a prompt that are trained on."""
        return self.setting.group

    @property
    def max_tokens(self) -> int:
        """Longest response."""
        return self.world.length

    @property
    def key(self) -> Tensor:
        """The counter-based key of this step."""
        return pack_key(self.seed, self.step_index, 0)

    @property
    def examples(self) -> Sequence[Example]:
        """All prompts."""
        return self.world.task.examples

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Vectors of texts: the world's own, else counts of tokens by position."""
        if self.world.embed is not None:
            return self.world.embed(texts)
        width, size = self.world.length, len(self.world.tokens)
        out = torch.zeros(len(texts), width, size)
        for i, text in enumerate(texts):
            for t, token in enumerate(self.tokenizer.encode(text)):
                out[i, t, token] = 1.0
        return out.flatten(1) / max(width, 1) ** 0.5

    def next_examples(self, count: int) -> list[Example]:
        """The next `count` prompts of an endless stream, shuffled every epoch."""
        start = self.memory["prompts"]
        self.memory["prompts"] += count
        return stretch(self.examples, start, count, self.seed)

    def sample(self, examples: Sequence[Example], rule: StepRule | None = None) -> Rollouts:
        """Responses of the current weights. rule: draws the policy's tokens."""
        drawn = self.draw(examples, self.samples, self.key, rule=rule)
        self.sampled += len(drawn)
        return drawn

    def greedy(self, examples: Sequence[Example]) -> Rollouts:
        """The most likely response to each prompt."""
        self.sampled += len(examples)
        return self.draw(examples, 1, self.key, greedy=True)

    def prompt_rows(self, examples: Sequence[Example]) -> PromptRows:
        """The prompts as token ids: their start states."""
        return self.world.prompt_rows(examples)

    def recorded(self, rows: Sequence[tuple[Example, Sequence[Written]]]) -> Rollouts:
        """Responses that the world's examples bring, each with its score."""
        first, uid = self.memory["groups"], self.memory["uids"]
        self.memory["groups"] += len(rows)
        self.memory["uids"] += sum(len(texts) for _, texts in rows)
        prompts = self.world.prompt_rows([example for example, _ in rows]).ids
        return as_rollouts(rows, prompts, self, first, uid)

    def draw(
        self,
        examples: Sequence[Example],
        count: int,
        key: Tensor,
        greedy: bool = False,
        rule: StepRule | None = None,
    ) -> Rollouts:
        """`count` responses to each prompt, with group ids and uids of their own."""
        first, uid = self.memory["groups"], self.memory["uids"]
        self.memory["groups"] += len(examples)
        self.memory["uids"] += len(examples) * count
        rows = [example for example in examples for _ in range(count)]
        prompt = self.world.prompt_rows(rows)
        uids = torch.arange(uid, uid + len(rows))
        choose = None if rule is None else chosen_by(rule, self.policy, self.references, (key, uids))
        walk = self.policy.walk(torch.tensor([ids[0] for ids in prompt.ids]), uids, key, greedy, choose)
        texts = [self.world.text(ids[:n]) for ids, n in zip(walk.ids.tolist(), walk.length.tolist(), strict=True)]
        return Rollouts(
            example=rows,
            prompt=prompt,
            ids=walk.ids,
            mask=walk.mask,
            logp=walk.logp,
            logp_sampled=walk.sampled,
            entropy=walk.entropy,
            text=texts,
            finish=["eos"] * len(rows),
            group=torch.arange(first, first + len(examples)).repeat_interleave(count),
            uid=uids,
            extra=walk.extra,
        )

    def score(self, batch: Batch, also: Sequence[Need] = (LOGP_OLD,)) -> Batch:
        """The batch with every column that the parts need, and those of `also`."""
        needs = tuple(dict.fromkeys((*also, *self.record.needs())))
        columns = self.policy.columns(batch, needs, self.references)
        return batch.with_columns(**columns)

    def observe(self, rollouts: Rollouts, verdicts: Verdicts, trained: Tensor) -> None:
        """Keeps the true success of the step's rollouts, and the label's success of each visit of a prompt."""
        truth = self.verifier.truths(verdicts.answer, rollouts)
        self.rewards[-1].append(truth.nanmean().item())
        seen: dict[int, tuple[str, list[bool]]] = {}
        rows = zip(
            rollouts.group.tolist(), rollouts.example, verdicts.success.tolist(), verdicts.graded.tolist(), strict=True
        )
        for group, example, success, graded in rows:
            if graded:
                seen.setdefault(group, (example.id, []))[1].append(success)
        for name, right in seen.values():
            self.memory["history"].setdefault(name, []).append(sum(right) / len(right))

    def gather(self, batch: Batch) -> Batch:
        """The batch; the share of its groups that hold a success and a failure is noted."""
        constant = group_constant(batch.success.double(), batch.group, batch.graded)
        self.mixed.append((~constant).double().mean().item())
        return batch

    def opened(self) -> None:
        """A bed's run is never cut."""

    def between(self, opened: Opened) -> None:
        """Nothing to do."""

    def descend(self, part: Batch, method: PolicyGradient, index: int) -> Update:
        """One update by Adam. GuardStop where the loss or the gradient is not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, now, metrics = backward(
            asked(self.policy, method, self.references), part, method, max(len(part), 1), fresh=index == 0
        )
        limit = method.descent.grad_clip if method.descent.grad_clip > 0 else math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), limit).item()
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise GuardStop(f"step {self.step_index}: loss {loss:g}, gradient norm {norm:g}: lower the bed's lr")
        for group in self.optimizer.param_groups:
            group["lr"] = plain(method.descent.lr)
        self.optimizer.step()
        more: Metrics = {"loss": (loss, 1.0), "grad_norm": (norm, 1.0)}
        return Update(batch=part, now=now, metrics=add_metrics(metrics, more), index=index)

    def step(self) -> None:
        """One step of the method."""
        if self.record is not self.method:  # `at` gives the record itself where it holds no schedule
            self.record = self.method.at(self.step_index / max(1, self.setting.steps - 1))
        self.rewards.append([])
        self.trained.append(mean_metrics(self.record.step(self)))
        self.step_index += 1

    def spent(self) -> bool:
        """Whether the run is over: steps or budget."""
        over = 0 < self.setting.budget <= self.sampled
        return over or self.step_index >= self.setting.steps

    def recent_reward(self, steps: int = 10) -> float:
        """Mean true success over the last `steps` steps' rollouts; 0 before the first."""
        seen = [value for rounds in self.rewards[-steps:] for value in rounds]
        return sum(seen) / len(seen) if seen else 0.0
