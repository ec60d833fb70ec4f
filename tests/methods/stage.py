"""A stage for methods: a policy small enough for float64, and a run that plays made-up rollouts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rekindle import methods
from rekindle.core.descend import backward
from rekindle.core.method import PolicyGradient
from rekindle.core.types import Batch, Metrics, Need, Now, Update
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.verify import Verifier
from tests.methods.made import VERIFIER, WIDTH, group_rollouts, letter_counts, playing
from tests.tiny_models import VOCABULARY, build, tokenizer

GROUP, PROMPTS = 4, 5


class TablePolicy(nn.Module):
    """Logits of a token: a row for the token before it plus a row for its position; exact and cheap."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64, width: int = 32) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.before = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=rng, dtype=torch.float64).to(dtype))
        self.place = nn.Parameter(torch.randn(width, VOCABULARY, generator=rng, dtype=torch.float64).to(dtype) / 2)

    def logits(self, batch: Batch) -> Tensor:
        assert isinstance(batch.prompt, PromptRows)
        last = torch.tensor([row[-1] for row in batch.prompt.ids], dtype=torch.int64)
        before = torch.cat([last[:, None], batch.action[:, :-1]], dim=1)
        return self.before[before] + self.place[: batch.action.shape[1]]

    def forward(self, batch: Batch) -> Now:
        logp = torch.log_softmax(self.logits(batch), dim=-1)
        taken = logp.gather(2, batch.action[..., None])[..., 0]
        entropy = -(logp.exp() * logp).sum(dim=-1)
        return Now(logp=taken.where(batch.mask, 0.0), entropy=entropy.where(batch.mask, 0.0))

    @torch.no_grad()
    def columns(self, batch: Batch, needs: Sequence[Need], references: Mapping[str, Any]) -> dict[str, Tensor]:
        models = {"policy": self, **references}
        logits = {name: model.logits(batch)[batch.mask] for name, model in models.items()}
        action = batch.action[batch.mask]
        zeros = torch.zeros(batch.mask.shape, dtype=self.before.dtype)
        return {n.name: zeros.masked_scatter(batch.mask, n.compute(logits, action)) for n in needs}


@dataclass(eq=False)
class Stage:
    """A run that plays rollouts by prompt number and updates by plain SGD."""

    method: PolicyGradient
    policy: Any
    reference: Any
    parameters: Sequence[nn.Parameter]
    source: Callable[[int], Rollouts] = group_rollouts
    prompts_per_step: int = PROMPTS
    group_size: int = GROUP
    max_tokens: int = WIDTH
    micro_batch: int = 7
    lr: float = 0.5
    embed: Callable[[Sequence[str]], Tensor] = letter_counts
    key: Tensor = field(default_factory=lambda: torch.tensor(5))
    verifier: Verifier = VERIFIER
    tokenizer: Any = field(default_factory=tokenizer)
    drawn: int = 0
    seen: list[tuple[Rollouts, Verdicts, Tensor]] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)

    def next_examples(self, count: int) -> list[Example]:
        self.drawn += count
        return [Example(str(g), "x") for g in range(self.drawn - count, self.drawn)]

    def sample(self, examples: Sequence[Example]) -> Rollouts:
        parts = [self.source(int(e.id)) for e in examples]
        if not self.method.collect.label.votes:
            parts = [part.take(torch.arange(self.group_size)) for part in parts]
        return Rollouts.concat(parts)

    def score(self, batch: Batch) -> Batch:
        columns = self.policy.columns(batch, self.method.needs(), {"reference": self.reference})
        return batch.with_columns(**columns)

    def observe(self, rollouts: Rollouts, verdicts: Verdicts, trained: Tensor) -> None:
        self.seen.append((rollouts, verdicts, trained))

    def gather(self, batch: Batch) -> Batch:
        return batch

    def descend(self, part: Batch, method: PolicyGradient, index: int) -> Update:
        for parameter in self.parameters:
            parameter.grad = None
        loss, now, metrics = backward(self.policy, part, method, self.micro_batch)
        with torch.no_grad():
            for parameter in self.parameters:
                parameter -= self.lr * parameter.grad if parameter.grad is not None else 0.0
        more: Metrics = {**metrics, "loss": (loss, 1.0)}
        self.updates.append(Update(batch=part, now=now, metrics=more, index=index, last=False))
        return self.updates[-1]


def table_stage(method: PolicyGradient, seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> Stage:
    """A stage with a table policy; the reference is another table."""
    policy = TablePolicy(seed, dtype)
    stage = Stage(method, policy, TablePolicy(seed + 1, dtype), list(policy.parameters()))
    return replace(stage, **changes)


def collected(method: PolicyGradient, rollouts: Rollouts, **changes: Any) -> tuple[Stage, Batch]:
    """A stage and the credited batch that `method` makes of `rollouts`, all groups, all rows, at moved weights."""
    sizes = rollouts.group.unique(return_counts=True)[1]
    settings = {"prompts_per_step": len(sizes), "group_size": int(sizes.max()), **changes}
    stage = table_stage(method, source=playing(rollouts), **settings)
    batch = method.credit(method.collect(stage))
    with torch.no_grad():
        for parameter in stage.parameters:
            parameter += 0.4 * torch.linspace(0, 500, parameter.numel(), dtype=parameter.dtype).sin().view_as(parameter)
    return stage, batch


def on_leaves(method: PolicyGradient, batch: Batch, now: Now) -> tuple[float, Tensor, Tensor]:
    """(loss, d loss / d logp, d loss / d entropy) of a credited batch."""
    leaf = Now(logp=now.logp.detach().requires_grad_(), entropy=now.entropy.detach().requires_grad_())
    loss, _ = method.loss(leaf, method.weigh(batch, leaf.detach()))
    if not loss.requires_grad:
        return loss.item(), torch.zeros_like(now.logp), torch.zeros_like(now.logp)
    grads = torch.autograd.grad(loss, [leaf.logp, leaf.entropy], allow_unused=True)
    return loss.item(), *(g if g is not None else torch.zeros_like(now.logp) for g in grads)


def gradients(parameters: Sequence[nn.Parameter], work: Callable[[], object]) -> Tensor:
    """All gradients that `work` leaves, as one vector."""
    for parameter in parameters:
        parameter.grad = None
    work()
    return torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters])


def difference(got: Tensor, want: Tensor) -> float:
    """Largest difference over the largest entry of `want`."""
    return ((got - want).abs().max() / want.abs().max()).item()


@functools.cache
def staged(name: str, dtype: torch.dtype, table: bool = False) -> tuple[Stage, Batch]:
    """A stage whose policy has moved since it scored the collected batch, so that ratios differ from 1."""
    method = methods.load(name).method()
    if table:
        stage = table_stage(method, dtype=dtype)
    else:
        model = build("llama", dtype)
        stage = Stage(method, LMPolicy(model), build("llama", dtype, seed=1), list(model.parameters()))
    batch = method.collect(stage)
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in stage.parameters:
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64).to(dtype)
    # Rows of a group side by side would hide a method that reads neighbours instead of group ids.
    return stage, batch.take(torch.randperm(len(batch), generator=rng))


def direct(stage: Stage, batch: Batch) -> Tensor:
    """The gradient of the loss of the whole minibatch in one graph: what the word means."""

    def work() -> None:
        now = stage.policy(batch)
        loss, _ = stage.method.loss(now, stage.method.weigh(batch, now.detach()))
        loss.backward()

    return gradients(stage.parameters, work)


def by_descend(stage: Stage, batch: Batch, micro: int, two_pass: bool) -> Tensor:
    """The gradient that the update leaves, cut into pieces of `micro` rows."""
    run = functools.partial(backward, stage.policy, batch, stage.method, micro, two_pass=two_pass)
    return gradients(stage.parameters, run)
