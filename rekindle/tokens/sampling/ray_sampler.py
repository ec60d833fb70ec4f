"""A `Sampler` over a fleet: the same responses whoever draws them, now or while the run trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from rekindle.core.types import Metrics
from rekindle.errors import InputError
from rekindle.tokens.lora import plain_weights
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.crew import cut
from rekindle.tokens.sampling.fleet import Fleet
from rekindle.tokens.sampling.hands import named
from rekindle.tokens.sampling.proofs import Proves
from rekindle.tokens.sampling.seats import Job


@dataclass(frozen=True, eq=False)
class Order:
    """A call that is being drawn. version: of the weights, all of it by the same."""

    job: Job
    examples: list[Example]
    version: int


class RaySampler:
    """Samples by the workers of `fleet`. The model is only read: its weights are pushed.

    together: whether a push waits until every worker is proven to have it; without, the workers take it when they are
    done with what they draw. dtype: that weights are sent in, None as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        encode: Callable[[Example], list[int]],
        fleet: Fleet,
        proof: Proves,
        *,
        apart: float | None,
        together: bool,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.encode, self.fleet, self.proof, self.apart = model, encode, fleet, proof, apart
        self.together, self.dtype = together, dtype
        self.version = 0

    def sample(
        self, examples: Sequence[Example], n: int, settings: Sampling, key: Int[Tensor, ""], first_group: int
    ) -> Rollouts:
        """`n` responses to each example by the newest weights, before anything else; see `Sampler`.

        Raises what `LocalSampler` does, and `EngineDead` where workers die too often.
        """
        return self.taken(self.order(examples, n, settings, key, first_group, urgent=True))

    def order(
        self,
        examples: Sequence[Example],
        n: int,
        settings: Sampling,
        key: Int[Tensor, ""],
        first_group: int,
        urgent: bool = False,
    ) -> Order:
        """The same, begun and not waited for."""
        if not examples or n < 1:
            raise InputError(f"{len(examples)} prompts with {n} responses each: sample at least one of both")
        if not self.version:
            raise InputError("the fleet has no weights yet: push before sampling")
        prompts = [tuple(self.encode(example)) for example in examples]
        names = [example.id for example in examples]
        blocks = cut(names, prompts, n, settings, key, first_group, self.version)
        return Order(self.fleet.submit(blocks, urgent), list(examples), self.version)

    def taken(self, order: Order) -> Rollouts:
        """The responses of a call, waiting for them."""
        return named(Rollouts.concat(self.fleet.take(order.job)), order.examples)

    def push(self) -> Metrics:
        """See `Sampler`. Where workers draw on, what they prove is told by `proved`."""
        weights = {n: v if self.dtype is None else v.to(self.dtype) for n, v in self._weights().items()}
        self.version += 1
        self.proof.expect(self.version, weights)
        self.fleet.publish(self.version, weights)
        if not self.together:
            return {}
        self.fleet.settle(self.version)
        return self.proof.proved(self.version)

    def proved(self, version: int) -> Metrics:
        """What the checks of the workers that have drawn by `version` showed."""
        return self.proof.proved(version)

    def clocked(self) -> dict[str, float]:
        """See `Clocked`: restarts, blocks drawn again, balance."""
        return self.fleet.clocked()

    def rest(self) -> None:
        """Nothing to do: workers have devices of their own."""

    def close(self) -> None:
        """Ends the workers."""
        self.fleet.close()

    def _weights(self) -> dict[str, Tensor]:
        return {name: value for name, value in plain_weights(self.model).items() if value.is_floating_point()}
