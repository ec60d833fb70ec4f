"""The bed `markov`: a draft that sees one token learns to be accepted by a target that sees two.

The small experiment on TVD++ (Goel et al., arXiv 2403.00858) as a table: an order-2 source of 32 tokens is the target
and answers with 32 tokens; a draft's row is the last token's. It is too small to equal the target, as drafts are.
With the option `sees` at 2 it has a row for both tokens, and could.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rekindle.core.draft_losses import acceptance, block_efficiency, kld
from rekindle.core.random import pack_key
from rekindle.core.types import entropy_of
from rekindle.prove.bed import Bed
from rekindle.prove.policy import TablePolicy
from rekindle.prove.run import Setting, TableRun
from rekindle.prove.world import TableTask, World
from rekindle.tokens.rollouts import Example

TOKENS = string.ascii_lowercase + "123456"
V, LENGTH = len(TOKENS), 32


@dataclass(frozen=True, kw_only=True)
class Markov:
    """Responses of the target to learn from; the metric is the exact share of drafted tokens that it accepts.

    rows: responses. sharp: deviation of the target's logits, of which a share comes from the last token alone. sees:
    tokens that choose the draft's row. start: "tuned" has the least KL(target || draft) that a draft of one token can
    have, "weak" half these logits, and noise.
    """

    rows: int = 768
    sharp: float = 1.5
    share: float = 0.7
    noise: float = 0.6
    sees: Literal[1, 2] = 1
    start: Literal["weak", "tuned"] = "weak"
    metrics: ClassVar[tuple[str, ...]] = ("acceptance", "blocks", "kl", "entropy")

    def world(self, seed: int) -> World:
        """States are pairs of tokens; each prompt is the pair that a response goes on from."""
        rng = torch.Generator().manual_seed(seed)
        target = self.source(rng)
        table = best_draft(target).repeat(V ** (self.sees - 1), 1)
        if self.start == "weak":
            table = table / 2 + self.noise * torch.randn(table.shape, generator=rng, dtype=torch.float64)
        pairs = torch.randint(0, V * V, (self.rows,), generator=rng)
        follow = torch.arange(V * V)[:, None] % V * V + torch.arange(V)
        told = [Example(str(i), pair_text(pair), "") for i, pair in enumerate(pairs.tolist())]
        world = World(
            tokens=tuple(TOKENS),
            start={pair_text(pair): pair for pair in range(V * V)},
            follow=follow,
            row=torch.arange(V * V) % V**self.sees,
            bias=torch.zeros(V * V, V, dtype=torch.float64),
            chosen=torch.ones(V * V, dtype=torch.bool),
            table=table,
            length=LENGTH,
            task=TableTask(examples=told, answer=lambda text: text),
            teacher=target,
            teacher_row=torch.arange(V * V),
        )
        for example, text in zip(told, answers(world, pairs, seed), strict=True):
            example.meta["demonstration"] = text
        return world

    def source(self, rng: torch.Generator) -> Float[Tensor, "S V"]:
        """The target's logits by pair."""
        last = torch.randn(V, V, generator=rng, dtype=torch.float64)[torch.arange(V * V) % V]
        both = torch.randn(V * V, V, generator=rng, dtype=torch.float64)
        return self.sharp * (self.share**0.5 * last + (1 - self.share) ** 0.5 * both)

    def measure(self, run: TableRun) -> dict[str, float]:
        """Exact, over the states that the target visits: acceptance, tokens a target pass at 3 drafts, KL, entropy."""
        target = run.world.teacher
        assert target is not None
        share = visits(target)
        logp = torch.log_softmax(run.policy.logits(torch.arange(V * V)).detach(), dim=1)
        q = torch.softmax(target, dim=1)
        found = {"acceptance": acceptance(logp, q), "kl": kld(logp, q), "entropy": entropy_of(logp)}
        means = {name: (share * value).sum().item() for name, value in found.items()}
        return {**means, "blocks": block_efficiency(means["acceptance"], 3)}


def pair_text(pair: int) -> str:
    """The two tokens of a state."""
    return TOKENS[pair // V] + TOKENS[pair % V]


def answers(world: World, pairs: Int[Tensor, " N"], seed: int) -> list[str]:
    """A response of the target from each pair."""
    policy = TablePolicy(world.taught())
    walk = policy.walk(pairs, torch.arange(len(pairs)), pack_key(seed, 0, 1))
    return [world.text(ids) for ids in walk.ids.tolist()]


def visits(target: Float[Tensor, "S V"]) -> Float[Tensor, " S"]:
    """The share of a response's tokens that the target draws in each state, from all pairs alike."""
    move = torch.softmax(target, dim=1)
    now = torch.full((V * V,), 1 / (V * V), dtype=torch.float64)
    total = torch.zeros_like(now)
    for _ in range(LENGTH):
        total = total + now
        # (first, last) -> (last, next): the first token is forgotten.
        now = (now[:, None] * move).view(V, V, V).sum(dim=0).flatten()
    return total / LENGTH


def best_draft(target: Float[Tensor, "S V"]) -> Float[Tensor, "V V"]:
    """The logits of the draft with the least KL from the target: its chances, averaged over what a draft forgets."""
    joint = (visits(target)[:, None] * torch.softmax(target, dim=1)).view(V, V, V).sum(dim=0)
    return torch.log(joint / joint.sum(dim=1, keepdim=True))


BED = Bed(
    name="markov",
    about="a draft that sees one token learns to be accepted by a target that sees two",
    setting=Setting(steps=200, prompts=32, group=1, minibatches=1, lr=0.02),
    task=Markov(),
)
