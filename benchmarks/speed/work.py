"""How much arithmetic a step needs at least, and how fast this machine multiplies matrices.

Counted are the matrix products on real tokens: projections, the head on response tokens only, and attention within the
context that a token really has. A prompt counts once a group, for its states do not depend on the response. Padding,
recomputation, softmax, norms and the optimiser count nothing: they are what a share below 1 is made of.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from benchmarks.speed.models import Size

SIDE = 1536


@dataclass(frozen=True)
class Lengths:
    """Tokens of each prompt, and of the responses to it."""

    prompts: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Sampled tokens, the end token included."""
        return sum(map(sum, self.responses))

    @property
    def rows(self) -> int:
        """Responses."""
        return sum(map(len, self.responses))

    @staticmethod
    def of(groups: Sequence[Hashable], prompts: Sequence[int], responses: Sequence[int]) -> Lengths:
        """From one entry a row: which prompt it belongs to, the prompt's tokens, its own."""
        sizes: dict[Hashable, int] = {}
        found: dict[Hashable, list[int]] = {}
        for group, prompt, response in zip(groups, prompts, responses, strict=True):
            sizes[group] = prompt
            found.setdefault(group, []).append(response)
        return Lengths(tuple(sizes.values()), tuple(tuple(rows) for rows in found.values()))


def parameters(size: Size) -> tuple[int, int]:
    """(parameters in the matrices of the layers, in the head)."""
    attention = size.hidden * size.head_dim * (2 * size.heads + 2 * size.kv_heads)
    return size.layers * (attention + 3 * size.hidden * size.inner), size.hidden * size.vocab


def forward_operations(size: Size, lengths: Lengths) -> float:
    """Floating-point operations of one forward pass over every token that something is predicted from."""
    body, head = parameters(size)
    fed = sum(lengths.prompts) + lengths.tokens - lengths.rows  # nothing is predicted from a last token
    contexts = 0.0
    for prompt, responses in zip(lengths.prompts, lengths.responses, strict=True):
        contexts += prompt * (prompt + 1) / 2
        contexts += sum((n - 1) * prompt + (n - 1) * n / 2 for n in responses)
    attention = 4.0 * contexts * size.heads * size.head_dim * size.layers
    return 2.0 * body * fed + 2.0 * head * lengths.tokens + attention


def step_operations(size: Size, lengths: Lengths) -> float:
    """Sampling (a forward pass) and training (forward, and backward at twice that)."""
    return 4.0 * forward_operations(size, lengths)


def train_operations(size: Size, lengths: Lengths) -> float:
    """Forward and backward."""
    return 3.0 * forward_operations(size, lengths)


class Matmul:
    """Operations a second of a square matrix product of side 1,536 in one dtype, measured on demand."""

    def __init__(self, dtype: torch.dtype = torch.float32, repeats: int = 5) -> None:
        self.a, self.b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
        self.repeats = repeats

    def __call__(self) -> float:
        """The median rate of a few products."""
        rates = []
        for _ in range(self.repeats):
            began = time.perf_counter()
            _ = self.a @ self.b
            rates.append(2.0 * SIDE**3 / (time.perf_counter() - began))
        return statistics.median(rates)
