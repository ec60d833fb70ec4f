"""The bed `first`: only the first token decides, and the reward comes many tokens later.

The experiment behind macro actions (MA-RLHF, Chai et al., arXiv 2410.02743): the score has to travel back over all that
follows. Where a value can see whether the first token was right, it says so at once, and nothing has to travel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from rekindle.prove.bed import Bed
from rekindle.prove.run import Setting, TableRun
from rekindle.prove.world import TableTask, World, free_world
from rekindle.tokens.rollouts import Example

DIGITS = 10
LEARNT = 0.9


@dataclass(frozen=True, kw_only=True)
class First:
    """Ten prompts, each with a right first digit; `length` - 1 digits follow that do not count.

    sees: whether a value head can tell a right first digit from a wrong one, or knows no more than the position.
    """

    length: int = 64
    sees: bool = True
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "steps_to_90", "entropy")

    def world(self, seed: int) -> World:
        """States: the prompts, then (position, whether the first digit was right). Even at the start."""
        prompt, digit = torch.arange(DIGITS)[:, None], torch.arange(DIGITS)[None]
        opened = DIGITS + (prompt == digit).long() if self.length > 1 else torch.full((DIGITS, DIGITS), -1)
        later = DIGITS + torch.arange(2 * (self.length - 1))
        follow = torch.where(later + 2 < DIGITS + len(later), later + 2, -1)
        follow = torch.cat([opened, follow[:, None].expand(-1, DIGITS)])
        names = [str(i) for i in range(DIGITS)]
        shown = [{"demonstration": name + "0" * (self.length - 1)} for name in names]
        examples = [Example(n, f"begin with {n}", n, m) for n, m in zip(names, shown, strict=True)]
        table = torch.zeros(follow.shape, dtype=torch.float64)
        task = TableTask(examples=examples, answer=lambda text: text[:1], compared=lambda text: text[:1])
        world = free_world(follow, table, tokens=names, start=range(DIGITS), length=self.length, task=task)
        blind = torch.cat([torch.arange(DIGITS), DIGITS + (later - DIGITS) // 2])
        return world if self.sees else replace(world, row=blind, table=table[: DIGITS + self.length - 1])

    def measure(self, run: TableRun) -> dict[str, float]:
        """accuracy and entropy (nats) of the first digit, exact; the first step whose rollouts are right at 0.9.

        A run that never gets there counts as one step more than it had.
        """
        share = torch.softmax(run.policy.table.detach()[:DIGITS], dim=1)
        means = [sum(rounds) / len(rounds) for rounds in run.rewards]
        reached = (step for step, mean in enumerate(means, start=1) if mean >= LEARNT)
        return {
            "accuracy": share.diagonal().mean().item(),
            "steps_to_90": float(next(reached, run.setting.steps + 1)),
            "entropy": -torch.special.xlogy(share, share).sum(dim=1).mean().item(),
        }


BED = Bed(
    name="first",
    about="64 tokens of which only the first counts; rewarded at the end",
    # The plain gradient: Adam would level out how little of a reward arrives. 64 responses a step, as one update.
    setting=Setting(steps=300, prompts=16, group=4, minibatches=1, lr=20.0, adam=False),
    task=First(),
)
