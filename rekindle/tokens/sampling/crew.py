"""What a fleet hands out (`Block`), and what it hands it to (`Crew`): workers that each hold a copy of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.engine import Ask, Got
from rekindle.tokens.sampling.fingerprints import Prints


@dataclass(frozen=True)
class Block:
    """Prompts of one call that are decoded together, `n` responses each, by the weights `version`.

    place: among the blocks of its call. names: the examples' ids, for errors; references never leave the run.
    key: of the call, as a plain integer. first_group: of the first prompt.
    """

    place: int
    names: tuple[str, ...]
    prompts: tuple[tuple[int, ...], ...]
    n: int
    settings: Sampling
    key: int
    first_group: int
    version: int

    def tokens(self, share: float) -> float:
        """Tokens that the block is expected to cost: prompts, and responses of `share` of the longest length."""
        return self.n * sum(len(prompt) + share * self.settings.max_tokens for prompt in self.prompts)


def cut(
    names: Sequence[str],
    prompts: Sequence[tuple[int, ...]],
    n: int,
    settings: Sampling,
    key: Int[Tensor, ""],
    first_group: int,
    version: int,
) -> list[Block]:
    """A call in blocks of `settings.block` prompts: the cut of the local sampler, so that the tokens are the same."""
    size = settings.block
    return [
        Block(
            place=start // size,
            names=tuple(names[start : start + size]),
            prompts=tuple(prompts[start : start + size]),
            n=n,
            settings=settings,
            key=int(key),
            first_group=first_group + start,
            version=version,
        )
        for start in range(0, len(prompts), size)
    ]


@dataclass(frozen=True)
class Told:
    """What a worker says after a load: what it computes with now, and responses that it drew to be checked."""

    prints: Prints
    asked: tuple[Ask, ...] = ()
    got: tuple[Got, ...] = ()


class WorkerGone(Exception):
    """A worker's process is dead, or of no use any more; another may do its work."""


@runtime_checkable
class Crew(Protocol):
    """Workers 0 .. size - 1. A worker does one thing after another in the order asked for; only pings overtake.

    A future fails with `WorkerGone` where the worker is gone, with the error itself where the work cannot be done.
    """

    size: int

    def start(self, worker: int) -> Future[Any]:
        """A new process with the model in it, in place of the one before."""
        ...

    def load(self, worker: int, version: int) -> Future[Told]:
        """Take published weights."""
        ...

    def draw(self, worker: int, block: Block) -> Future[Rollouts]:
        """Responses by the weights that the worker has; their examples are without prompts and references."""
        ...

    def ping(self, worker: int) -> Future[Any]:
        """Answered also while the worker draws."""
        ...

    def kill(self, worker: int) -> None:
        """End its process, whatever it does."""
        ...

    def publish(self, version: int, weights: Mapping[str, Tensor]) -> None:
        """Put weights where all workers can take them."""
        ...

    def drop(self, version: int) -> None:
        """Nobody will ask for these weights again."""
        ...

    def close(self) -> None:
        """End everything."""
        ...
