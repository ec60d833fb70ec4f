"""The bed `bandit`: three arms, and pairs of them that were drawn long ago by somebody else.

The bandit of CoPG (Flet-Berliac et al., arXiv 2406.19185): rewards 2.5, 2 and 1, a uniform reference, beta 0.5. The
members of a pair come from two policies that both favour the worst arm. What is learned offline is not what pays there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rekindle.prove.bed import Bed
from rekindle.prove.run import TableRun
from rekindle.prove.setting import Setting
from rekindle.prove.world import TableTask, World, free_world
from rekindle.tokens.rollouts import Example

ARMS, PROMPT, BETA = "abc", "pull", 0.5
REWARDS = torch.tensor([2.5, 2.0, 1.0], dtype=torch.float64)
FIRST = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
SECOND = torch.tensor([0.05, 0.05, 0.9], dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Bandit:
    """`pairs` pairs of arms: with their rewards, and as chosen and rejected by a Bradley-Terry judge of these."""

    pairs: int = 10_000
    metrics: ClassVar[tuple[str, ...]] = ("regret", "best", "entropy")

    def world(self, seed: int) -> World:
        """One state; the pairs differ by seed."""
        examples = self._examples(torch.Generator().manual_seed(seed))
        return free_world(
            torch.full((1, len(ARMS)), -1),
            torch.zeros(1, len(ARMS), dtype=torch.float64),
            tokens=ARMS,
            start=[0] * len(examples),
            length=1,
            task=TableTask(examples=examples, answer=str),
        )

    def measure(self, run: TableRun) -> dict[str, float]:
        """Exact: regret of the regularised value, probability of the best arm, entropy (nats)."""
        share = torch.softmax(run.policy.table.detach()[0], dim=0)
        return {
            "regret": value(optimum()) - value(share),
            "best": share[0].item(),
            "entropy": -torch.special.xlogy(share, share).sum().item(),
        }

    def _examples(self, rng: torch.Generator) -> list[Example]:
        one = torch.multinomial(FIRST, self.pairs, replacement=True, generator=rng)
        two = torch.multinomial(SECOND, self.pairs, replacement=True, generator=rng)
        draw = torch.rand(self.pairs, generator=rng, dtype=torch.float64)
        first_wins = draw < torch.sigmoid(REWARDS[one] - REWARDS[two])
        rows = zip(one.tolist(), two.tolist(), first_wins.tolist(), strict=True)
        return [Example(str(i), PROMPT, ARMS[0], _columns(a, b, won)) for i, (a, b, won) in enumerate(rows)]


def _columns(one: int, two: int, won: bool) -> dict[str, object]:
    better, worse = (one, two) if won else (two, one)
    return {
        "completions": (ARMS[one], ARMS[two]),
        "rewards": (REWARDS[one].item(), REWARDS[two].item()),
        "chosen": ARMS[better],
        "rejected": ARMS[worse],
        "demonstration": ARMS[better],
    }


def optimum() -> Float[Tensor, " 3"]:
    """The policy of the highest regularised value: exp(R / beta) / Z under the uniform reference."""
    return torch.softmax(REWARDS / BETA, dim=0)


def value(share: Float[Tensor, " 3"]) -> float:
    """Expected reward minus beta times the KL divergence to the uniform reference."""
    kl = torch.special.xlogy(share, share * len(ARMS)).sum()
    return (share @ REWARDS - BETA * kl).item()


BED = Bed(
    name="bandit",
    about="three arms, learned from 10000 pairs of pulls that others drew",
    setting=Setting(steps=400, prompts=128, lr=0.02, minibatches=1),
    task=Bandit(),
)
