"""The bed `numbers`: increasing numbers among distractor tokens, rewarded by how far they go on increasing.

The toy of RL4LMs (Ramamurthy et al., arXiv 2210.01241), rewritten for a table: a vocabulary of which most is of no use,
and a start policy that counts upwards, but not reliably.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rekindle.core.random import pack_key
from rekindle.prove.bed import Bed
from rekindle.prove.run import TableRun
from rekindle.prove.setting import Setting
from rekindle.prove.world import TableTask, World
from rekindle.tokens.rewards import Reward, Rewards
from rekindle.tokens.rollouts import Example
from rekindle.train.ruled import DrawsByRule

NUMBERS = 20
NEXT, STEP, DISTRACTOR = 3, 3.0, -1.0
"""The next so many numbers have this logit at the start; other numbers 0, distractors that."""
SPREAD, SAMPLES = 0.5, 400


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Responses of `length` tokens from 20 numbers and `distractors` others; a row of logits for each last token.

    The reward is the length of the strictly increasing run of numbers from the start, over `length`.
    """

    distractors: int = 80
    length: int = 10
    metrics: ClassVar[tuple[str, ...]] = ("distractors", "bare", "kl", "entropy")

    def world(self, seed: int) -> World:
        """Rows: after each number, after a distractor, at the start. States: a row at a position."""
        size, rows, places = NUMBERS + self.distractors, NUMBERS + 2, self.length
        after = torch.arange(size).clamp(max=NUMBERS)
        place = torch.arange(places)[:, None]
        follow = torch.where(place + 1 < places, (place + 1) * rows + after, -1)
        example = Example("0", "count upwards")
        return World(
            tokens=tuple(f"{i} " if i < NUMBERS else f"x{i} " for i in range(size)),
            start={example.prompt: NUMBERS + 1},
            follow=follow.repeat_interleave(rows, dim=0),
            row=torch.arange(rows).repeat(places),
            bias=torch.zeros(rows * places, size, dtype=torch.float64),
            chosen=torch.ones(rows * places, dtype=torch.bool),
            table=self._start(seed),
            length=places,
            task=TableTask(examples=[example], answer=str),
            rewards=Rewards((Reward("run", self.reward),)),
        )

    def _start(self, seed: int) -> Float[Tensor, "R V"]:
        last = torch.cat([torch.arange(NUMBERS), torch.tensor([NUMBERS, -1])])[:, None]
        token = torch.arange(NUMBERS + self.distractors)
        ahead = (token > last) & (token <= last + NEXT) & (token < NUMBERS)
        table = STEP * ahead + DISTRACTOR * (token >= NUMBERS)
        noise = torch.randn(table.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return table.double() + SPREAD * noise

    def reward(self, completions: list[str]) -> list[float]:
        """The share of each text that is one increasing run from its start."""
        return [run_length(text.split()) / self.length for text in completions]

    def measure(self, run: TableRun) -> dict[str, float]:
        """Of fresh samples, drawn as the method draws: reward, share of distractors; `bare`: that without its mask.

        kl: of the unmasked policy to its start, exact in each state that its own samples visit. entropy: nats a token.
        """
        collect: Any = run.record.collect
        draw = collect.draw
        rule = draw.rule(run) if isinstance(draw, DrawsByRule) else None
        kept = {name: run.memory[name] for name in ("groups", "uids")}
        key = pack_key(run.seed, -1, 0)
        ours, bare = (run.draw(run.examples, SAMPLES, key, rule=one) for one in (rule, None))
        run.memory |= kept
        assert bare.entropy is not None  # a table knows its entropy
        return {
            "reward": sum(self.reward(list(ours.text))) / len(ours),
            "distractors": (ours.ids >= NUMBERS).double().mean().item(),
            "bare": (bare.ids >= NUMBERS).double().mean().item(),
            "kl": moved(run.policy.table.detach(), run.world.table, bare.ids).item(),
            "entropy": bare.entropy.mean().item(),
        }


def run_length(words: list[str]) -> int:
    """How many words from the first on are numbers, each larger than the one before."""
    last = -1
    for place, word in enumerate(words):
        if not word.isdigit() or int(word) <= last:
            return place
        last = int(word)
    return len(words)


def moved(now: Float[Tensor, "R V"], start: Float[Tensor, "R V"], ids: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
    """KL(now || start) of a row of logits, averaged over the rows in which these tokens were drawn."""
    here, there = torch.log_softmax(now, dim=1), torch.log_softmax(start, dim=1)
    each = (here.exp() * (here - there)).sum(dim=1)
    first = torch.full_like(ids[:, :1], NUMBERS + 1)
    return each[torch.cat([first, ids[:, :-1].clamp(max=NUMBERS)], dim=1)].mean()


BED = Bed(
    name="numbers",
    about="increasing numbers among 80 distractor tokens, rewarded by how far they go on",
    setting=Setting(steps=100, prompts=4, group=16, lr=0.02),
    task=Numbers(),
)
