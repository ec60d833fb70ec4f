"""A stage for methods: a policy small enough for float64, and a run that plays made-up rollouts."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rekindle.core.descend import backward
from rekindle.core.method import PolicyGradient
from rekindle.core.opened import Opened
from rekindle.core.types import LOGP_OLD, Batch, Metrics, Need, Now, Seen, Update
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.passes import where_of
from rekindle.tokens.policy import LMPolicy, row_means
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.sampling.rules import StepRule
from rekindle.tokens.verify import Verifier
from rekindle.train.asked import asked
from rekindle.train.build import make_heads
from rekindle.train.drawn import visits
from tests.methods.made import VERIFIER, WIDTH, group_rollouts, letter_counts, playing, under_rule
from tests.methods.records import record_of
from tests.tiny_models import VOCABULARY, build, tokenizer

GROUP, PROMPTS = 4, 5
META = {
    "paraphrase": "y",
    "demonstration": "abc",
    "chosen": "abc",
    "rejected": "ab",
    "completions": ("abc", "ab", "b", "bc"),
    "rewards": (1.0, 0.0, 0.5, -0.5),
}
"""Columns that some methods read."""


class TablePolicy(nn.Module):
    """Logits of a token: a row for the token before it plus a row for its position; exact and cheap."""

    def __init__(
        self, seed: int = 0, dtype: torch.dtype = torch.float64, width: int = 32, heads: Sequence[str] = ()
    ) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.before = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=rng, dtype=torch.float64).to(dtype))
        self.place = nn.Parameter(torch.randn(width, VOCABULARY, generator=rng, dtype=torch.float64).to(dtype) / 2)
        values = torch.randn(VOCABULARY + width, generator=rng, dtype=torch.float64).to(dtype) / 2
        self.value = nn.Parameter(values, requires_grad=bool(heads))
        self.heads = heads

    def logits(self, batch: Batch) -> Tensor:
        return self.before[before(batch)] + self.place[: batch.action.shape[1]]

    def hidden(self, batch: Batch) -> Tensor:
        """One-hot token before and position [B T D]: the logits are linear in it."""
        width, spots = batch.action.shape[1], torch.eye(len(self.place), dtype=self.place.dtype)
        place = spots[:width].expand(len(batch), width, len(self.place))
        return torch.cat([nn.functional.one_hot(before(batch), VOCABULARY).to(place.dtype), place], dim=2)

    def weight(self) -> Tensor:
        """The head's matrix [V D] of `hidden`."""
        return torch.cat([self.before, self.place]).T

    def forward(self, batch: Batch, joint: Sequence[Need] = (), references: Mapping[str, Any] | None = None) -> Now:
        logp = torch.log_softmax(self.logits(batch), dim=-1)
        taken = logp.gather(2, batch.action[..., None])[..., 0]
        entropy = -(logp.exp() * logp).sum(dim=-1)
        extra = {name: (self.hidden(batch) @ self.value).where(batch.mask, 0.0) for name in self.heads}
        if joint:
            seen, zeros = self.seen(batch, references or {}), torch.zeros_like(taken)
            extra |= {need.name: zeros.masked_scatter(batch.mask, need.compute(seen)) for need in joint}
        return Now(logp=taken.where(batch.mask, 0.0), entropy=entropy.where(batch.mask, 0.0), extra=extra)

    def seen(self, batch: Batch, references: Mapping[str, Any]) -> Seen:
        models, (columns, at) = {"policy": self, **references}, where_of(batch, self.place.device)
        logits = {name: model.logits(batch)[batch.mask] for name, model in models.items()}
        return Seen(
            logits={name: value if name == "policy" else value.detach() for name, value in logits.items()},
            hidden={name: model.hidden(batch)[batch.mask] for name, model in models.items()},
            weight={name: model.weight() for name, model in models.items()},
            values={name: self.hidden(batch)[batch.mask] @ self.value for name in self.heads},
            action=batch.action[batch.mask],
            columns=columns,
            at=at,
        )

    @torch.no_grad()
    def columns(self, batch: Batch, needs: Sequence[Need], references: Mapping[str, Any]) -> dict[str, Tensor]:
        seen = self.seen(batch, references)
        zeros = torch.zeros(batch.mask.shape, dtype=self.before.dtype)
        token = {n.name: placed(batch, zeros, n.compute(seen)) for n in needs if n.per == "token"}
        return token | {n.name: row_means(batch, n.compute(seen)) for n in needs if n.per == "row"}


def placed(batch: Batch, zeros: Tensor, values: Tensor) -> Tensor:
    """Values [N] or [N K] of the actions as a column."""
    if values.dim() == 1:
        return zeros.masked_scatter(batch.mask, values)
    return values.new_zeros((*batch.mask.shape, *values.shape[1:])).index_put((batch.mask,), values)


def apart(parts: Sequence[Rollouts]) -> list[Rollouts]:
    """The same groups with ids of their own where one is played twice in a round."""
    seen: dict[int, int] = {}
    out = []
    for part in parts:
        group = int(part.group[0])
        again = seen[group] = seen.get(group, -1) + 1
        out.append(replace(part, group=part.group + 1000 * again, uid=part.uid + 100_000 * again))
    return out


def before(batch: Batch) -> Tensor:
    """The token before each action [B T]."""
    assert isinstance(batch.prompt, PromptRows)
    last = torch.tensor([row[-1] for row in batch.prompt.ids], dtype=torch.int64)
    return torch.cat([last[:, None], batch.action[:, :-1]], dim=1)


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
    also: Sequence[Need] = (LOGP_OLD,)  # for tests that call the loss themselves; () as a run has it
    drawn: int = 0
    step_index: int = 0
    memory: dict[str, Any] = field(default_factory=lambda: {"history": {}})
    seen: list[tuple[Rollouts, Verdicts, Tensor]] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    snapshots: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    foreign_ends: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Snapshots that the method's needs name, at the start weights."""
        for name in sorted(self.method.passes() - {"policy", *self.references}):
            self.snapshot(name)

    @property
    def references(self) -> dict[str, Any]:
        """Every other pass that a need may name, each with weights of its own; snapshots once they are made."""
        return {"reference": self.reference, "teacher": self.reference, **self.snapshots}

    @property
    def scores(self) -> Callable[[Batch], Now]:
        """The policy with what the method wants of every pass."""
        return asked(self.policy, self.method, self.references)

    def snapshot(self, name: str) -> None:
        """A frozen copy of the policy as it is now, as the pass `name`."""
        self.snapshots[name] = copy.deepcopy(self.policy if isinstance(self.policy, TablePolicy) else self.policy.model)

    @property
    def record(self) -> PolicyGradient:
        return self.method

    @property
    def examples(self) -> list[Example]:
        """All prompts, for parts that choose among them."""
        return [Example(str(g), "x", "5", dict(META)) for g in range(PROMPTS)]

    def prompt_rows(self, examples: Sequence[Example]) -> PromptRows:
        return PromptRows(tuple(self.said(e).prompt.ids[0] for e in examples))

    def next_examples(self, count: int) -> list[Example]:
        self.drawn += count
        return [Example(str(g), "x", meta=dict(META)) for g in range(self.drawn - count, self.drawn)]

    def said(self, example: Example) -> Rollouts:
        """The rollouts of a prompt by its number; a paraphrase has others of its own."""
        twin = example.id.endswith("~")
        rows = self.source(int(example.id.rstrip("~")) + PROMPTS * twin)
        return replace(rows, example=[replace(e, id=example.id, meta=example.meta) for e in rows.example])

    def greedy(self, examples: Sequence[Example]) -> Rollouts:
        return Rollouts.concat([self.said(e).take(torch.tensor([1])) for e in examples])

    def sample(self, examples: Sequence[Example], rule: StepRule | None = None) -> Rollouts:
        parts = apart([self.said(e) for e in examples])
        collect: Any = self.method.collect
        if not collect.label.votes:
            parts = [part.take(torch.arange(self.group_size)) for part in parts]
        rows = Rollouts.concat(parts)
        return rows if rule is None else under_rule(rows, rule)

    def recorded(self, rows: Sequence[tuple[Example, Sequence[tuple[str, float]]]]) -> Rollouts:
        """The made-up rows of each prompt, ragged and with gaps, with the scores of the texts that it brings."""
        said = [(self.said(example), len(texts)) for example, texts in rows]
        parts = [part.take((torch.arange(n) + i) % len(part)) for i, (part, n) in enumerate(said)]
        scores = [torch.tensor([score for _, score in texts], dtype=torch.float64) for _, texts in rows]
        told = [replace(part, given=given) for part, given in zip(parts, scores, strict=True)]
        return Rollouts.concat(apart(told))

    def score(self, batch: Batch, also: Sequence[Need] = ()) -> Batch:
        needs = tuple(dict.fromkeys((*self.method.needs(), *self.also, *also)))
        columns = self.policy.columns(batch, needs, self.references)
        return batch.with_columns(**columns)

    def observe(self, rollouts: Rollouts, verdicts: Verdicts, trained: Tensor) -> None:
        self.seen.append((rollouts, verdicts, trained))
        for prompt, share in visits(rollouts, verdicts):
            self.memory["history"].setdefault(prompt, []).append(share)

    def gather(self, batch: Batch) -> Batch:
        return batch

    def opened(self) -> None:
        pass

    def between(self, opened: Opened) -> None:
        pass

    def descend(self, part: Batch, method: PolicyGradient, index: int) -> Update:
        for parameter in self.parameters:
            parameter.grad = None
        policy = asked(self.policy, method, self.references)
        loss, now, metrics = backward(policy, part, method, self.micro_batch, fresh=index == 0)
        with torch.no_grad():
            for parameter in self.parameters:
                parameter -= self.lr * parameter.grad if parameter.grad is not None else 0.0
        part = part if "logp_old" in part.extra else part.with_columns(logp_old=now.logp)
        more: Metrics = {**metrics, "loss": (loss, 1.0)}
        self.updates.append(Update(batch=part, now=now, metrics=more, index=index, last=False))
        return self.updates[-1]


def table_stage(method: PolicyGradient, seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> Stage:
    """A stage with a table policy; the reference is another table."""
    policy = TablePolicy(seed, dtype, heads=method.heads())
    stage = Stage(method, policy, TablePolicy(seed + 1, dtype), trainable(policy))
    return replace(stage, **changes)


def trainable(policy: nn.Module) -> list[nn.Parameter]:
    """The parameters that train; the value table only where a head reads it."""
    return [p for p in policy.parameters() if p.requires_grad]


def collected(method: PolicyGradient, rollouts: Rollouts, **changes: Any) -> tuple[Stage, Batch]:
    """A stage and the credited batch that `method` makes of `rollouts`, all groups, all rows, at moved weights."""
    sizes = rollouts.group.unique(return_counts=True)[1]
    settings = {"prompts_per_step": len(sizes), "group_size": int(sizes.max()), **changes}
    stage = table_stage(method, source=playing(rollouts), **settings)
    batch = method.credit(sourced(stage))
    with torch.no_grad():
        for parameter in stage.parameters:
            parameter += 0.4 * torch.linspace(0, 500, parameter.numel(), dtype=parameter.dtype).sin().view_as(parameter)
    return stage, batch


def on_leaves(method: PolicyGradient, batch: Batch, now: Now) -> tuple[float, Tensor, Tensor]:
    """(loss, d loss / d logp, d loss / d entropy) of a credited batch."""
    extra = {name: value.detach().requires_grad_() for name, value in now.extra.items()}
    leaf = Now(logp=now.logp.detach().requires_grad_(), entropy=now.entropy.detach().requires_grad_(), extra=extra)
    loss, _ = method.loss(leaf, method.weigh(batch, leaf.detach()))
    if not loss.requires_grad:
        return loss.item(), torch.zeros_like(now.logp), torch.zeros_like(now.logp)
    grads = torch.autograd.grad(loss, [leaf.logp, leaf.entropy], allow_unused=True)
    logp, entropy = (g if g is not None else torch.zeros_like(now.logp) for g in grads)
    return loss.item(), logp, entropy


def gradients(parameters: Sequence[nn.Parameter], work: Callable[[], object]) -> Tensor:
    """All gradients that `work` leaves, as one vector."""
    for parameter in parameters:
        parameter.grad = None
    work()
    return torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters])


def difference(got: Tensor, want: Tensor) -> float:
    """Largest difference over the largest entry of `want`."""
    return ((got - want).abs().max() / want.abs().max()).item()


def sourced(stage: Stage) -> Batch:
    """The batch of the stage's next step, before it is credited."""
    batch = stage.method.collect(stage)
    for source in stage.method.source:
        batch = source(batch, stage)
    return batch


def moved(stage: Stage, rng: torch.Generator) -> None:
    """Every weight a random step away."""
    with torch.no_grad():
        for parameter in stage.parameters:
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64).to(parameter.dtype)


@functools.cache
def staged(name: str, dtype: torch.dtype, table: bool = False) -> tuple[Stage, Batch]:
    """A stage whose policy has moved since it scored the collected batch, so that ratios differ from 1."""
    method = record_of(name)
    if table:
        stage = table_stage(method, dtype=dtype)
    else:
        model = build("llama", dtype)
        heads = make_heads(model, method)
        parameters = [*model.parameters(), *heads.parameters()]
        stage = Stage(method, LMPolicy(model, heads=heads), build("llama", dtype, seed=1), parameters)
    rng = torch.Generator().manual_seed(3)
    batch = sourced(stage)
    if stage.kept:  # what it keeps from step to step acts from the second step on
        moved(stage, rng)
        stage.step_index += 1
        batch = sourced(stage)
    moved(stage, rng)
    # Rows of a group side by side would hide a method that reads neighbours instead of group ids.
    return stage, batch.take(torch.randperm(len(batch), generator=rng))


def direct(stage: Stage, batch: Batch) -> Tensor:
    """The gradient of the loss of the whole minibatch in one graph: what the word means."""

    def work() -> None:
        now = stage.scores(batch)
        loss, _ = stage.method.loss(now, stage.method.weigh(batch, now.detach()))
        loss.backward()

    return gradients(stage.parameters, work)


def by_descend(stage: Stage, batch: Batch, micro: int, two_pass: bool) -> Tensor:
    """The gradient that the update leaves, cut into pieces of `micro` rows."""
    run = functools.partial(backward, stage.scores, batch, stage.method, micro, two_pass=two_pass)
    return gradients(stage.parameters, run)
