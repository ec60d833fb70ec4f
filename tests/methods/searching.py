"""A run for methods that search: an adapter of two layers, and prompts that are directions to point into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rekindle.core.evolution import MEMORY, Evolution, Point
from rekindle.core.random import pack_key, uniforms
from rekindle.core.ranks import Alone, Together
from rekindle.core.types import Metrics

WIDTH, RANK, LAYERS = 5, 3, 2


@dataclass(eq=False)
class ToyRun:
    """What a search asks of a run. `seen` holds every weight that was tried here, in order."""

    seed: int = 0
    ranks: Together = field(default_factory=Alone)
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=lambda: made(0))
    step_index: int = 0
    drawn: int = 0
    stale: bool = False
    memory: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    live: dict[str, Any] = field(default_factory=dict)
    seen: list[Tensor] = field(default_factory=list)

    @property
    def key(self) -> Tensor:
        return pack_key(self.seed, self.step_index, 0)

    def factors(self) -> list[tuple[Tensor, Tensor]]:
        return self.pairs

    @property
    def weights(self) -> Tensor:
        """Delta W of all layers as one vector."""
        return torch.cat([(b @ a).flatten() for a, b in self.pairs])

    def steps(self, method: Evolution, count: int) -> list[Metrics]:
        """So many generations."""
        told = []
        for _ in range(count):
            told.append(method.step(self))
            self.step_index += 1
        return told

    @property
    def fitness(self) -> list[list[float]]:
        return self.memory[MEMORY]["fitness"]


def made(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Trained factors: parameters that would take a gradient."""
    rng = torch.Generator().manual_seed(seed)
    sizes = [((RANK, WIDTH), (WIDTH + 1, RANK))] * LAYERS
    return [tuple(torch.randn(s, generator=rng).requires_grad_() for s in pair) for pair in sizes]  # type: ignore[misc]


def pointing(run: ToyRun, examples: Sequence[int]) -> float:
    """How far the weights point into the directions of the prompts, which agree in part."""
    directions = uniforms(torch.tensor(3), torch.tensor(examples), len(run.weights)) - 0.2
    return (directions @ run.weights.double()).mean().item()


@dataclass(frozen=True)
class Pointing:
    """Candidates are worth `of` what `pointing` says."""

    of: Callable[[float], float] = float

    def examples(self, run: ToyRun) -> list[int]:
        run.seen.append(run.weights.clone())
        return list(range(8 * run.step_index, 8 * run.step_index + 8))

    def __call__(self, run: ToyRun, examples: Sequence[int]) -> float:
        run.seen.append(run.weights.clone())
        return self.of(pointing(run, examples))


def toy(method: Evolution, of: Callable[[float], float] = float) -> Evolution:
    """The method's own space and search, on the toy's prompts."""
    return method.replace(collect=Pointing(of))


@dataclass(eq=False)
class Free:
    """A place that is the numbers themselves."""

    size: int
    scale: float = 1.0
    at: Point | None = None

    def put(self, point: Point) -> None:
        self.at = point.clone()


@dataclass(frozen=True)
class Numbers:
    """`size` numbers, searched as they are."""

    size: int

    def __call__(self, run: Any) -> Free:
        return run.live.setdefault("place", Free(self.size))

    def told(self, run: Any) -> tuple[str, ...]:
        return ()


def again(run: ToyRun) -> ToyRun:
    """A run that goes on from what is saved of this one: memory, kept tensors, weights and the step."""
    pairs = [(a.detach().clone(), b.detach().clone()) for a, b in run.pairs]
    memory = {**run.memory, MEMORY: {**run.memory[MEMORY], "fitness": [list(row) for row in run.fitness]}}
    return replace(run, pairs=pairs, memory=memory, kept=dict(run.kept), live={}, seen=[])
