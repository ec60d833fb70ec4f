"""Sampling by several ranks: each draws its blocks of prompts, or one draws for all; every rank gets every rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Int
from torch import Tensor

from rekindle.core.ranks import Ranks
from rekindle.core.types import Metrics
from rekindle.tokens.loader import Loaded
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.base import Clocked, Sampler, Sampling
from rekindle.tokens.tasks.base import Task
from rekindle.train.ranks import agreed
from rekindle.train.samplers import make_sampler
from rekindle.train.settings import RunConfig
from rekindle.train.shard import Copy, CopySampler


def ranked_sampler(config: RunConfig, loaded: Loaded, task: Task, ranks: Ranks, copy: Copy | None) -> Sampler:
    """The sampler of this rank. copy: the whole model, where the one that trains lies in shares.

    A fleet and a server are one for all ranks; any other engine each rank has for itself.
    """
    loaded = loaded if copy is None else replace(loaded, model=copy.model)
    if ranks.count == 1:
        return make_sampler(config, loaded, task)
    one = config.rollout.sampler == "ray" or (config.rollout.sampler == "vllm" and config.vllm.url is not None)
    made: list[Sampler] = []

    def make() -> float | None:
        made.extend([make_sampler(config, loaded, task)] if ranks.index == 0 or not one else [])
        return made[0].apart if made else None

    apart = agreed(ranks, make)[0]
    sampler = LeaderSampler(made[0] if made else None, ranks, apart) if one else SharedSampler(made[0], ranks)
    return sampler if copy is None else CopySampler(sampler, copy)


def share(prompts: int, block: int, ranks: Ranks) -> slice:
    """The prompts of this rank: whole blocks, one after another, cut as one rank cuts them."""
    blocks = -(-prompts // block)
    first, end = (blocks * index // ranks.count for index in (ranks.index, ranks.index + 1))
    return slice(min(first * block, prompts), min(end * block, prompts))


@dataclass(frozen=True, eq=False)
class SharedSampler:
    """Each rank samples its share with an engine of its own.

    Groups, uids and uniforms are those of one rank, and the local sampler decodes the same blocks: with the same number
    of threads the tokens are the same ones.
    """

    inner: Sampler
    ranks: Ranks

    @property
    def apart(self) -> float | None:
        """As the engine of this rank; every rank has one alike."""
        return self.inner.apart

    def sample(
        self, examples: Sequence[Example], n: int, settings: Sampling, key: Int[Tensor, ""], first_group: int
    ) -> Rollouts:
        """All responses, on every rank. An engine that dies ends all ranks with its sentence."""
        mine = share(len(examples), settings.block, self.ranks)

        def draw() -> Rollouts | None:
            some = examples[mine]
            if not some and examples:
                return None
            return self.inner.sample(some, n, settings, key, first_group + mine.start)

        return Rollouts.concat([part for part in agreed(self.ranks, draw) if part is not None])

    def push(self) -> Metrics:
        """Every rank brings its engine to the current weights; what rank 0 measured."""
        return agreed(self.ranks, self.inner.push)[0]

    def rest(self) -> None:
        """Every engine rests."""
        self.inner.rest()

    def close(self) -> None:
        """Closes the engine of this rank."""
        self.inner.close()


@dataclass(frozen=True, eq=False)
class LeaderSampler:
    """Rank 0 samples for all, with an engine that is one for all (a server, a fleet). inner: None on the others.

    apart: of that engine.
    """

    inner: Sampler | None
    ranks: Ranks
    apart: float | None

    def sample(
        self, examples: Sequence[Example], n: int, settings: Sampling, key: Int[Tensor, ""], first_group: int
    ) -> Rollouts:
        """All responses, on every rank."""

        def draw() -> Rollouts | None:
            return None if self.inner is None else self.inner.sample(examples, n, settings, key, first_group)

        return Rollouts.concat([part for part in agreed(self.ranks, draw) if part is not None])

    def push(self) -> Metrics:
        """Rank 0 brings the engine to the current weights, which all ranks have."""
        return agreed(self.ranks, lambda: {} if self.inner is None else self.inner.push())[0]

    def clocked(self) -> dict[str, float]:
        """What the inner sampler measures of a step; nothing where it measures nothing."""
        return self.inner.clocked() if isinstance(self.inner, Clocked) else {}

    def rest(self) -> None:
        """The engine rests."""
        if self.inner is not None:
            self.inner.rest()

    def close(self) -> None:
        """Rank 0 closes the engine."""
        if self.inner is not None:
            self.inner.close()
