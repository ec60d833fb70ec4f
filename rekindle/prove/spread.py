"""The bed `spread`: prompts of every difficulty, one decision each: how much is learned from so many responses.

Two hundred prompts with success probabilities spread evenly over (0, 1): what remedies for zero-advantage groups
(dynamic sampling, arXiv 2503.14476, and its kin) save, and what they cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rekindle.prove.bed import Bed
from rekindle.prove.run import Setting, TableRun
from rekindle.prove.world import TableTask, World, free_world
from rekindle.tokens.rollouts import Example

RIGHT, WRONG = "r", "w"
SOLVED = 7.0
"""The logit of a prompt that is solved already: 0.999."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """`questions` prompts, each with a logit of its own.

    solved, unsolvable: shares that are right from the start with probability 0.999, and that can never be right.
    """

    questions: int = 200
    solved: float = 0.0
    unsolvable: float = 0.0
    metrics: ClassVar[tuple[str, ...]] = ("reward", "accuracy", "entropy")

    def world(self, seed: int) -> World:
        """A state a prompt; the same difficulties for every seed."""
        n = self.questions
        solved, never = round(self.solved * n), n - round(self.unsolvable * n)
        open_ones = max(never - solved, 1)
        level = ((torch.arange(n) - solved + 0.5) / open_ones).clamp(0.5 / open_ones, 1 - 0.5 / open_ones)
        logit = torch.logit(level.double())
        logit[:solved], logit[never:] = SOLVED, 0.0
        answers = [RIGHT if i < never else "none" for i in range(n)]
        examples = [Example(str(i), f"question {i}", a, {"demonstration": RIGHT}) for i, a in enumerate(answers)]
        return free_world(
            torch.full((n, 2), -1),
            torch.stack([logit, torch.zeros_like(logit)], dim=1),
            tokens=(RIGHT, WRONG),
            start=range(n),
            length=1,
            task=TableTask(examples=examples, answer=str),
        )

    def measure(self, run: TableRun) -> dict[str, float]:
        """Exact, over all prompts: probability of a right answer, share whose likeliest answer is right, entropy."""
        share: Tensor = torch.softmax(run.policy.table.detach(), dim=1)
        right = share[:, 0] * torch.tensor([e.answer == RIGHT for e in run.examples])
        return {
            "reward": right.mean().item(),
            "accuracy": (right > 0.5).double().mean().item(),
            "entropy": -torch.special.xlogy(share, share).sum(dim=1).mean().item(),
        }


BED = Bed(
    name="spread",
    about="200 prompts of every difficulty, one decision each",
    setting=Setting(steps=100, prompts=16, group=8),
    task=Spread(),
)
