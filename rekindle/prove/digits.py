"""The bed `digits`: emit digits whose sum, modulo the number of targets, is the prompt's; many answers are right.

The tabular experiment behind Clip-Cov and KL-Cov (Cui et al., arXiv 2505.22617) and, with fillers, forking tokens
(Wang et al., arXiv 2506.01939): a logit for every prompt, position, running sum and digit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from rekindle.core.random import pack_key
from rekindle.prove.bed import Bed
from rekindle.prove.run import Setting, TableRun
from rekindle.prove.world import TableTask, World, free_world
from rekindle.tokens.rewards import Reward, Rewards
from rekindle.tokens.rewards.conventions import OpenRlhf
from rekindle.tokens.rollouts import Example

DIGITS, SAMPLES = 10, 300
FILLER, SOLVED = 6.0, 8.0
"""What is added to the logit of the usual filler, and to that of the right last digit of a prompt solved already."""


@dataclass(frozen=True, kw_only=True)
class Digits:
    """`blocks` digits, each followed by `fillers` tokens that do not count; prompts 0 .. targets - 1.

    solved, unsolvable: shares of the prompts that the start weights solve, and whose answer is never right.
    offset: each prompt's scores are shifted by a normal number with this standard deviation, which tells nothing.
    """

    blocks: int = 4
    fillers: int = 0
    targets: int = 10
    solved: float = 0.0
    unsolvable: float = 0.0
    offset: float = 0.0
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "distinct", "entropy")

    def world(self, seed: int) -> World:
        """States are (prompt, position, running sum)."""
        places, m = self.blocks * (1 + self.fillers), self.targets
        shape = (m, places, m, DIGITS)
        place = torch.arange(places).view(1, -1, 1, 1).expand(shape)
        decides = place % (1 + self.fillers) == 0
        prompt, total = torch.arange(m).view(-1, 1, 1, 1), torch.arange(m).view(1, 1, -1, 1)
        digit = torch.arange(DIGITS).view(1, 1, 1, -1)
        after = torch.where(decides, (total + digit) % m, total.expand(shape))
        follow = torch.where(place + 1 < places, (prompt * places + place + 1) * m + after, -1)
        table = 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        table += FILLER * (~decides & (digit == 0))
        last = place == (self.blocks - 1) * (1 + self.fillers)
        table += SOLVED * (last & ((total + digit) % m == prompt) & (prompt < round(self.solved * m)))
        task = TableTask(examples=self._examples(), answer=self._sum, compared=self._decisions)
        world = free_world(
            follow.reshape(-1, DIGITS),
            table.reshape(-1, DIGITS),
            tokens="0123456789",
            start=[p * places * m for p in range(m)],
            length=places,
            task=task,
        )
        return replace(world, rewards=self._shifted(task, seed)) if self.offset else world

    def _shifted(self, task: TableTask, seed: int) -> Rewards:
        """1 for a right answer plus the prompt's own offset; success is the right answer all the same."""
        normal = torch.randn(self.targets, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        offset = {e.prompt: self.offset * x for e, x in zip(task.examples, normal.tolist(), strict=True)}

        def reward(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, list[float]]:
            said = [query.removeprefix(prompt) for query, prompt in zip(queries, prompts, strict=True)]
            right = [float(task.answer(text) == label) for text, label in zip(said, labels, strict=True)]
            return {"rewards": [r + offset[p] for r, p in zip(right, prompts, strict=True)], "scores": right}

        return Rewards((Reward("shifted", reward, convention=OpenRlhf()),))

    def measure(self, run: TableRun) -> dict[str, float]:
        """accuracy, entropy (nats a token) and distinct right answers a prompt, of 300 fresh samples a prompt."""
        groups, uids = run.memory["groups"], run.memory["uids"]
        rollouts = run.draw(run.examples, SAMPLES, pack_key(run.seed, -1, 0))
        run.memory |= {"groups": groups, "uids": uids}
        assert rollouts.entropy is not None  # a table knows its entropy
        answers = [self._sum(text) for text in rollouts.text]
        rows = zip(rollouts.example, rollouts.text, answers, strict=True)
        right = [(e.id, self._decisions(text)) for e, text, answer in rows if answer == e.answer]
        return {
            "accuracy": len(right) / len(answers),
            "distinct": len(set(right)) / len(run.examples),
            "entropy": (rollouts.entropy.sum() / rollouts.mask.sum()).item(),
        }

    def _examples(self) -> list[Example]:
        never = self.targets - round(self.unsolvable * self.targets)
        answers = [str(p) if p < never else "none" for p in range(self.targets)]
        shown = [{"demonstration": self._demonstration(p)} for p in range(self.targets)]
        return [Example(str(p), f"sum to {p}", answers[p], shown[p]) for p in range(self.targets)]

    def _demonstration(self, target: int) -> str:
        """A right response, as an expert would leave it: the largest digits first, fillers 0."""
        left, digits = target, []
        for _ in range(self.blocks):
            digits.append(str(min(left, DIGITS - 1)))
            left -= int(digits[-1])
        return "".join(digit + "0" * self.fillers for digit in digits)

    def _decisions(self, text: str) -> str:
        return text[:: 1 + self.fillers]

    def _sum(self, text: str) -> str:
        return str(sum(map(int, self._decisions(text))) % self.targets)


BED = Bed(name="digits", about="digits with a given sum; 1000 right answers a prompt", setting=Setting(), task=Digits())
