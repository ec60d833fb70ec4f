"""An engine of fixed latency: for measuring and testing a fleet without a model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rekindle.core.random import uniforms
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.sampling.crew import Block, Told
from rekindle.tokens.sampling.fingerprints import exact
from rekindle.tokens.sampling.hands import nameless


@dataclass(frozen=True)
class SimulatedPlan:
    """Every block takes `seconds`, whatever it holds. deaf: it says after a load that it has other weights."""

    seconds: float = 0.0
    deaf: bool = False

    def build(self) -> SimulatedHand:
        """See `Plan`."""
        return SimulatedHand(self.seconds, self.deaf)


class SimulatedHand:
    """Tokens that depend on (key, uid) and on the weights' version; lengths between one and the longest."""

    def __init__(self, seconds: float = 0.0, deaf: bool = False) -> None:
        self.seconds, self.deaf, self.version = seconds, deaf, 0

    def load(self, version: int, weights: Mapping[str, Tensor]) -> Told:
        """See `Hand`."""
        self.version = version
        return Told({name: {"hash": exact(value) + self.deaf} for name, value in weights.items()})

    def draw(self, block: Block) -> Rollouts:
        """See `Hand`."""
        time.sleep(self.seconds)
        group = torch.arange(len(block.prompts)).repeat_interleave(block.n) + block.first_group
        uid = group * block.n + torch.arange(block.n).repeat(len(block.prompts))
        chance = uniforms(torch.tensor(block.key), uid, block.settings.max_tokens)
        size = 1 + (chance[:, 0] * block.settings.max_tokens).long()
        mask = torch.arange(block.settings.max_tokens) < size[:, None]
        logp = torch.where(mask, chance.log().float(), 0.0)
        examples: list[Example] = [example for example in nameless(block) for _ in range(block.n)]
        return Rollouts(
            example=examples,
            prompt=PromptRows(tuple(prompt for prompt in block.prompts for _ in range(block.n))),
            ids=torch.where(mask, (chance * 1000).long() + 1000 * self.version, 0),
            mask=mask,
            logp=logp,
            logp_sampled=logp,
            entropy=None,
            text=["" for _ in examples],
            finish=["eos" for _ in examples],
            group=group,
            uid=uid,
        )
