"""The bed `frozen`: the task of `digits`, learned from responses that the start weights drew once and a grader scored.

Each prompt comes many times, each time with eight responses of its own, about three in ten of them right; the sets
without a right or without a wrong one are left out, so that methods on pairs and on scores see the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rekindle.core.random import pack_key
from rekindle.prove.bed import Bed
from rekindle.prove.digits import DIGITS, Digits
from rekindle.prove.policy import TablePolicy
from rekindle.prove.run import TableRun
from rekindle.prove.setting import Setting
from rekindle.prove.world import World
from rekindle.tokens.rollouts import Example

RESPONSES = 8
HINT = 1.35
"""What is added to the logit of the right last digit: right three times in ten."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """`sets` sets of eight responses to each of ten prompts, `blocks` digits long."""

    sets: int = 40
    blocks: int = 4
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "logp_chosen", "logp_rejected", "entropy")

    def world(self, seed: int) -> World:
        """The world of `digits` with a hint at the last digit, and examples that bring what was drawn there."""
        world = Digits(blocks=self.blocks).world(seed)
        table = world.table.view(DIGITS, self.blocks, DIGITS, DIGITS).clone()
        place = torch.arange(DIGITS)
        for total in range(DIGITS):
            table[place, -1, total, (place - total) % DIGITS] += HINT
        world = replace(world, table=table.view_as(world.table))
        return replace(world, task=replace(world.task, examples=self._examples(world, seed)))

    def measure(self, run: TableRun) -> dict[str, float]:
        """Exact: accuracy, entropy (nats a token), mean log-prob a token of chosen and of rejected responses."""
        table = torch.log_softmax(run.policy.table.detach(), dim=1)
        accuracy, entropy = self._walked(table.view(DIGITS, self.blocks, DIGITS, DIGITS))
        return {
            "accuracy": accuracy,
            "entropy": entropy,
            "logp_chosen": _likelihood(run, table, "chosen"),
            "logp_rejected": _likelihood(run, table, "rejected"),
        }

    def _walked(self, logp: Float[Tensor, "P T S V"]) -> tuple[float, float]:
        """(probability of a right sum, entropy a token), means over prompts, all responses taken together."""
        at, entropy = torch.zeros(DIGITS, DIGITS, dtype=torch.float64), 0.0
        at[:, 0] = 1.0
        after = (torch.arange(DIGITS)[:, None] + torch.arange(DIGITS)) % DIGITS
        for t in range(self.blocks):
            share = logp[:, t].exp()
            entropy -= (at[..., None] * share * logp[:, t]).sum().item()
            at = torch.zeros_like(at).index_add(1, after.flatten(), (at[..., None] * share).flatten(1))
        return at.diagonal().mean().item(), entropy / (DIGITS * self.blocks)

    def _examples(self, world: World, seed: int) -> list[Example]:
        asked = [example for example in world.task.examples for _ in range(self.sets)]
        rows = [example for example in asked for _ in range(RESPONSES)]
        start = torch.tensor([ids[0] for ids in world.prompt_rows(rows).ids])
        walk = TablePolicy(world).walk(start, torch.arange(len(rows)), pack_key(seed, -2, 0))
        texts = [world.text(ids) for ids in walk.ids.tolist()]
        made = []
        for i, example in enumerate(asked):
            said = tuple(texts[i * RESPONSES : (i + 1) * RESPONSES])
            right = [world.task.extract(text) == example.answer for text in said]
            if any(right) and not all(right):
                columns = {"completions": said, "rewards": tuple(map(float, right))}
                columns |= {"chosen": said[right.index(True)], "rejected": said[right.index(False)]}
                made.append(replace(example, id=f"{example.id}.{i}", meta={**example.meta, **columns}))
        return made


def _likelihood(run: TableRun, logp: Float[Tensor, "R V"], column: str) -> float:
    """Mean log-prob a token of the responses in a column."""
    ids = torch.tensor([run.tokenizer.encode(e.meta[column]) for e in run.examples])
    state: Int[Tensor, " B"] = torch.tensor([run.world.start[e.prompt] for e in run.examples])
    total = 0.0
    for t in range(ids.shape[1]):
        total += logp[run.world.row[state], ids[:, t]].mean().item()
        state = run.world.follow[state, ids[:, t]]
    return total / ids.shape[1]


BED = Bed(
    name="frozen",
    about="digits with a given sum, learned from eight frozen responses a prompt, scored 0 or 1",
    setting=Setting(steps=200, prompts=32, minibatches=1, lr=0.05),
    task=Frozen(),
)
