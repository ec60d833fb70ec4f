"""The bed `taught`: the task of `digits` with a teacher who is right nine times in ten, and a student one in twenty.

The experiment behind KDRL (Xu et al., arXiv 2506.02208) as a table: most groups of the student are all wrong. The
teacher is the student told what is ahead: of its own responses it takes the right ones, and a few wrong ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rekindle.prove.bed import Bed
from rekindle.prove.digits import DIGITS, Digits
from rekindle.prove.run import TableRun
from rekindle.prove.setting import Setting
from rekindle.prove.world import World

DRAWS = 16


@dataclass(frozen=True, kw_only=True)
class Taught:
    """`blocks` digits whose sum, modulo the number of `targets`, is the prompt's; `taught`: the teacher's accuracy."""

    blocks: int = 4
    targets: int = 20
    taught: float = 0.9
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "pass@16", "distinct", "entropy")

    def world(self, seed: int) -> World:
        """The world of `digits` and a teacher's table."""
        world = self._digits().world(seed)
        return replace(world, teacher=self.teacher(world.table))

    def teacher(self, table: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """The student's responses as they are, but wrong ones less often: right ones are `taught` of all."""
        logp = self._by_place(table)
        right = self.solved(table).mean().item()
        wrong = right * (1 - self.taught) / ((1 - right) * self.taught)
        ahead = torch.eye(self.targets, dtype=logp.dtype)  # whether a running sum is right at the end, by prompt
        out = torch.empty_like(logp)
        for t in reversed(range(self.blocks)):
            after = ahead[:, self._after()]
            out[:, t] = logp[:, t] + (wrong + (1 - wrong) * after).log()
            ahead = (logp[:, t].exp() * after).sum(dim=-1)
        return out.view_as(table)

    def solved(self, table: Float[Tensor, "R V"]) -> Float[Tensor, " P"]:
        """The exact probability of a right response, by prompt."""
        logp, at = self._by_place(table), torch.zeros(self.targets, self.targets, dtype=torch.float64)
        at[:, 0] = 1.0
        for t in range(self.blocks):
            share = at[..., None] * logp[:, t].exp()
            at = torch.zeros_like(at).index_add(1, self._after().flatten(), share.flatten(1))
        return at.diagonal()

    def measure(self, run: TableRun) -> dict[str, float]:
        """Exact: accuracy and pass@16; of 300 samples a prompt: distinct right answers, entropy (nats a token)."""
        right = self.solved(run.policy.table.detach())
        exact = {"accuracy": right.mean().item(), "pass@16": (1 - (1 - right) ** DRAWS).mean().item()}
        return self._digits().measure(run) | exact

    def _digits(self) -> Digits:
        return Digits(blocks=self.blocks, targets=self.targets)

    def _by_place(self, table: Float[Tensor, "R V"]) -> Float[Tensor, "P T S V"]:
        return torch.log_softmax(table, dim=1).view(self.targets, self.blocks, self.targets, DIGITS)

    def _after(self) -> Tensor:
        """The running sum after each digit, from each running sum [S V]."""
        return (torch.arange(self.targets)[:, None] + torch.arange(DIGITS)) % self.targets


BED = Bed(
    name="taught",
    about="digits with a given sum: a student right one time in twenty, a teacher nine in ten",
    setting=Setting(),
    task=Taught(),
)
