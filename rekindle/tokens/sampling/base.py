"""What sampling is asked for (`Sampling`) and what a sampler promises (`Sampler`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from rekindle.core.types import Metrics
from rekindle.errors import InputError
from rekindle.tokens.rollouts import Example, Rollouts


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn.

    temperature: divides the logits. top_p: smallest set of most likely tokens with at least this share, 1 keeps all.
    top_k: number of most likely tokens kept, 0 keeps all. max_tokens: longest response. stop: strings that end a
    response (kept at the end of its text). block: prompts decoded together; with a fixed block and thread count the
    same key gives the same tokens bit for bit. admit: a prompt starts as soon as others of its call left room for its
    rows, so that a few long responses do not run alone. The same call then still gives the same tokens bit for bit, but
    the rounding of a prompt depends on its neighbours, and a token can flip by it. It pays where a pass costs much the
    same for few rows as for many: small models, many cores, a GPU. Without use where the model's cache cannot do it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    block: int = 8
    admit: bool = False

    def __post_init__(self) -> None:
        """Raises `InputError` on a value out of range."""
        checks = (
            ("temperature", 0.0 < self.temperature < float("inf"), "a finite number above 0"),
            ("top_p", 0.0 < self.top_p <= 1.0, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "0 (keep all) or a positive integer"),
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("stop", all(self.stop), "a tuple of non-empty strings"),
            ("block", self.block >= 1, "at least 1"),
        )
        for name, good, wanted in checks:
            if not good:
                raise InputError(f"sampling.{name} is {getattr(self, name)!r}; it must be {wanted}")

    @property
    def truncates(self) -> bool:
        """Whether tokens are drawn from a truncated distribution, so that `logp_sampled` differs from `logp`."""
        return self.top_p < 1.0 or self.top_k > 0


@runtime_checkable
class Samples(Protocol):
    """Anything that turns prompts into rollouts."""

    def sample(
        self, examples: Sequence[Example], n: int, settings: Sampling, key: Int[Tensor, ""], first_group: int
    ) -> Rollouts:
        """`n` responses to each example, prompt by prompt.

        The prompt at index i gets group first_group + i; its response j gets uid group * n + j. The same key, uids
        and weights give the same rollouts. Rollouts live on the CPU, whatever device the model computes on.
        """
        ...


@runtime_checkable
class Sampler(Samples, Protocol):
    """What samples for a run whose weights move."""

    @property
    def apart(self) -> float | None:
        """How far the mean of its tokens' log-probs may lie from the model's, in nats.

        None where its numbers are the model's own, so that nothing needs to be compared; infinite where it samples by
        older weights, so that a gap is expected.
        """
        ...

    def push(self) -> Metrics:
        """Bring the sampler to the weights that the model has now, and prove it.

        Raises `GuardStop` with the numbers where it samples from others, `EngineDead` where its process is gone.
        """
        ...

    def rest(self) -> None:
        """Free what only sampling needs; the next `push` takes it back."""
        ...

    def close(self) -> None:
        """Let go of everything that the sampler holds."""
        ...


@runtime_checkable
class Clocked(Protocol):
    """A sampler of which some numbers depend on the clock: who drew what, who died."""

    def clocked(self) -> dict[str, float]:
        """These numbers since the last time; they go where a step's seconds go."""
        ...
