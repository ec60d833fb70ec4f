"""The bed `ways`: six ways of solving, shared by all prompts; held-out prompts are solved by one way each.

The bandit behind EVOL-RL (Zhou et al., arXiv 2509.15194): training prompts reward every way about equally, so nothing
but the method decides whether the others survive. Answers are drawn by the environment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rekindle.prove.bed import Bed
from rekindle.prove.run import Setting, TableRun
from rekindle.prove.world import TableTask, World
from rekindle.tokens.rollouts import Example

WAYS, ANSWERS = "abcdef", "012345678"
BASE = (0.60, 0.55, 0.55, 0.5, 0.5, 0.5)
SPREAD, LOWEST, HIGHEST = 0.1, 0.05, 0.95
SOLVED, MISSED = 0.9, 0.02
"""Success on a held-out prompt by its own way, and by any other."""
NOISE, NOISE_DIM = 0.15, 8
K = 16


@dataclass(frozen=True, kw_only=True)
class Ways:
    """`questions` training prompts; a way's success on each is BASE + SPREAD * normal, a wrong answer one of eight.

    Each has a paraphrase, on which the ways succeed otherwise.
    """

    questions: int = 32
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "entropy", "pass@16")

    def world(self, seed: int) -> World:
        """One row of six logits; the answer after a way is the environment's. A teacher prefers the first way."""
        n, size = 2 * self.questions, len(WAYS) + len(ANSWERS)
        success = self.success(seed)
        follow = torch.full((n + n * len(WAYS), size), -1)
        follow[:n, : len(WAYS)] = n + torch.arange(n * len(WAYS)).view(n, -1)
        bias = torch.full(follow.shape, float("-inf"), dtype=torch.float64)
        bias[:n, : len(WAYS)] = 0.0
        bias[n:, len(WAYS)] = success.flatten().log()
        wrong = (1 - success) / (len(ANSWERS) - 1)
        bias[n:, len(WAYS) + 1 :] = wrong.flatten().log()[:, None]
        chosen = torch.arange(len(follow)) < n
        right, wrong = (WAYS[0] + answer for answer in ANSWERS[:2])
        written = {"demonstration": right, "chosen": right, "rejected": wrong}
        written |= {"completions": (right, wrong), "rewards": (1.0, 0.0)}
        again = {i: {"paraphrase": f"question {i}, in other words", **written} for i in range(self.questions)}
        examples = [Example(str(i), f"question {i}", ANSWERS[0], meta) for i, meta in again.items()]
        start = {e.prompt: i for i, e in enumerate(examples)}
        start |= {meta["paraphrase"]: self.questions + i for i, meta in again.items()}
        return World(
            tokens=(*WAYS, *ANSWERS),
            start=start,
            follow=follow,
            row=(~chosen).long(),
            bias=bias,
            chosen=chosen,
            table=torch.zeros(2, size, dtype=torch.float64),
            teacher=torch.eye(2, size, dtype=torch.float64),
            length=2,
            task=TableTask(examples=examples, answer=lambda text: text[1:], compared=lambda text: text[:1]),
            embed=noisy_ways(seed),
        )

    def success(self, seed: int) -> Float[Tensor, "P 6"]:
        """How likely each way solves each training prompt, then each of their paraphrases."""
        noise = torch.randn(2 * self.questions, len(WAYS), generator=_generator(seed), dtype=torch.float64)
        return (torch.tensor(BASE, dtype=torch.float64) + SPREAD * noise).clamp(LOWEST, HIGHEST)

    def measure(self, run: TableRun) -> dict[str, float]:
        """Exact: entropy of the choice (nats), success on training prompts, pass@16 on prompts of one way each."""
        share = torch.softmax(run.policy.table.detach()[0, : len(WAYS)], dim=0)
        one = share * SOLVED + (1 - share) * MISSED
        return {
            "accuracy": (self.success(run.seed)[: self.questions] @ share).mean().item(),
            "entropy": -torch.special.xlogy(share, share).sum().item(),
            "pass@16": (1 - (1 - one) ** K).mean().item(),
        }


def noisy_ways(seed: int) -> Callable[[Sequence[str]], Tensor]:
    """Texts -> unit rows: the one-hot vector of the way with noise beside it, drawn afresh for every text."""
    generator = _generator(seed)

    def embed(texts: Sequence[str]) -> Tensor:
        way = torch.nn.functional.one_hot(torch.tensor([WAYS.index(text[0]) for text in texts]), len(WAYS))
        noise = NOISE * torch.randn(len(texts), NOISE_DIM, generator=generator, dtype=torch.float64)
        return torch.nn.functional.normalize(torch.cat([way, noise], dim=1), dim=1)

    return embed


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


BED = Bed(
    name="ways",
    about="six ways of solving, held-out prompts solved by one each",
    setting=Setting(steps=400, prompts=8, group=32, votes=64, lr=0.02),
    task=Ways(),
)
