"""What `VllmSampler` asks of an engine, in numbers and texts alone, so that the engine may be another process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from rekindle.tokens.sampling.fingerprints import Prints


@dataclass(frozen=True)
class Ask:
    """One response that is wanted."""

    prompt: tuple[int, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class How:
    """How responses are drawn: as `Sampling`, with the ids that end one."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop: tuple[str, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True)
class Got:
    """A response: its tokens (the end token included), their log-probs where they were drawn, and how it ended."""

    ids: list[int]
    logp: list[float]
    finish: str


@dataclass(frozen=True, kw_only=True)
class About:
    """What an engine is: its version, device ("cpu", "cuda"), number format, longest sequence, and its process."""

    version: str
    device: str
    dtype: str
    max_model_len: int
    where: str


@runtime_checkable
class Engine(Protocol):
    """Something that samples from weights of its own."""

    @property
    def about(self) -> About:
        """What it is."""
        ...

    def generate(self, asks: Sequence[Ask], how: How) -> list[Got]:
        """A response to each, in order; the same seeds, prompts and weights give the same."""
        ...

    def load(self, weights: Mapping[str, Tensor]) -> Prints:
        """Take these weights, forget every cached prefix, and say what is now computed with."""
        ...

    def sleep(self) -> None:
        """Give device memory back until the next `load`; nothing on a CPU."""
        ...

    def close(self) -> None:
        """End."""
        ...
