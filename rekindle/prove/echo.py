"""The bed `echo`: every response is right, so rewards teach nothing; one first token opens a peaked branch, one a flat.

The mechanism of EchoRL (Bi et al., arXiv 2605.31228): echoing the most uncertain step raises the flat branch, while
echoing a random step has no drift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from rekindle.prove.bed import Bed
from rekindle.prove.run import Setting, TableRun
from rekindle.prove.world import TableTask, World, free_world
from rekindle.tokens.rollouts import Example

FIRST, SECOND, BREAK = ("a", "b"), ("w", "x", "y", "z"), "\n"
TOKENS = (*FIRST, BREAK, *SECOND)
PEAKED, FLAT = 3.0, 0.3
NEVER = float("-inf")


@dataclass(frozen=True, kw_only=True)
class Echo:
    """Two steps: a or b and a line break; after a the logits [3, 0, 0, 0], after b [0.3, 0, 0, 0]."""

    metrics: ClassVar[tuple[str, ...]] = ("flat", "entropy")

    def world(self, seed: int) -> World:
        """States: the choice, the break after a and after b, the second token after each; the same for every seed."""
        breaks = slice(len(FIRST), len(FIRST) + 1)
        follow = torch.full((5, len(TOKENS)), -1)
        follow[0, : len(FIRST)] = torch.tensor([1, 2])
        follow[1:3, breaks] = torch.tensor([[3], [4]])
        table = torch.zeros(5, len(TOKENS), dtype=torch.float64)
        table[3, breaks.stop], table[4, breaks.stop] = PEAKED, FLAT
        bias = torch.full(table.shape, NEVER, dtype=torch.float64)
        bias[0, : len(FIRST)], bias[1:3, breaks], bias[3:, breaks.stop :] = 0.0, 0.0, 0.0
        task = TableTask(examples=[Example("0", "anything", "right")], answer=lambda text: "right")
        return free_world(follow, table, tokens=TOKENS, start=[0], length=3, task=task, bias=bias)

    def measure(self, run: TableRun) -> dict[str, float]:
        """Exact: the probability of the branch that began flat, and the entropy of the choice (nats)."""
        share = torch.softmax(run.policy.table.detach()[0, : len(FIRST)], dim=0)
        return {"flat": share[1].item(), "entropy": -torch.special.xlogy(share, share).sum().item()}


BED = Bed(
    name="echo",
    about="every response is right; a flat and a peaked branch",
    setting=Setting(steps=400, prompts=4, group=8, minibatches=1, lr=0.02),
    task=Echo(),
)
