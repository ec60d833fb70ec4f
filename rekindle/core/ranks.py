"""Ranks: processes that take every step together. Core knows them by what they exchange, never by a process group.

All hold the same batch, memory and rollouts; only work is split: piece i of anything is that of rank i modulo their
number. The numbers that come back are put in the order of the pieces, so that they are those of one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

S = TypeVar("S")
T = TypeVar("T")


@runtime_checkable
class Ranks(Protocol):
    """Processes that hold the same run. index: of this one, from 0; count: of all."""

    @property
    def index(self) -> int:
        """Which of them this process is."""
        ...

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def exchange(self, value: T) -> list[T]:
        """The values of all ranks, in their order; every rank calls it together."""
        ...


@runtime_checkable
class Together(Ranks, Protocol):
    """Ranks that take an update together.

    sharded: the weights lie in shares. Each rank then runs the policy as often as any other (idle pieces fill up), and
    the policy's backward pass leaves each rank its share of the summed gradient.
    """

    @property
    def sharded(self) -> bool:
        """Whether a parameter and its gradient hold this rank's share only."""
        ...

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over the ranks; the same bits on every rank."""
        ...

    def norm(self, tensors: Sequence[Tensor]) -> float:
        """The norm of all tensors as one vector: of whole ones, or of those that lie in shares."""
        ...


@dataclass(frozen=True)
class Alone:
    """One process."""

    index: int = 0
    count: int = 1
    sharded: bool = False

    def exchange(self, value: T) -> list[T]:
        """The one value."""
        return [value]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Nothing to add."""

    def norm(self, tensors: Sequence[Tensor]) -> float:
        """The root of the sum of squares, taken in float64; 0 where there are none."""
        return math.sqrt(squares(tensors))


def squares(tensors: Sequence[Tensor]) -> float:
    """The sum of the squares of all entries, taken in float64."""
    return torch.stack([t.double().square().sum() for t in tensors]).sum().item() if tensors else 0.0


@dataclass(frozen=True)
class Turn:
    """A piece that falls to this rank. idle: it stands for none; its work is done for the others' sake and dropped."""

    piece: int
    idle: bool = False


def turns(pieces: int, ranks: Together) -> list[Turn]:
    """The pieces of this rank; with sharded weights all ranks get equally many, so that none waits for ever."""
    mine = [Turn(piece) for piece in range(ranks.index, pieces, ranks.count)]
    rounds = -(-pieces // ranks.count) if ranks.sharded else len(mine)
    return mine + [Turn(pieces - 1, idle=True)] * (rounds - len(mine))


def shared(pieces: Sequence[S], work: Callable[[S], T], ranks: Together) -> list[T]:
    """What `work` makes of every piece, in their order: each rank does its own, the results are exchanged."""
    done = [(turn.piece, work(pieces[turn.piece]), turn.idle) for turn in turns(len(pieces), ranks)]
    return in_order([(piece, result) for piece, result, idle in done if not idle], ranks)


def in_order(mine: Sequence[tuple[int, T]], ranks: Ranks) -> list[T]:
    """The results of all ranks by piece, given this rank's as (piece, result)."""
    told = [pair for one in ranks.exchange(list(mine)) for pair in one]
    return [result for _, result in sorted(told, key=lambda pair: pair[0])]


def sum_gradients(parameters: Sequence[Tensor], ranks: Together) -> None:
    """Add the gradients up over the ranks; one that a rank lacks counts as zero, one that all lack stays away."""
    if ranks.count == 1 or ranks.sharded:  # a sharded policy has added them up itself
        return
    there = [any(one) for one in zip(*ranks.exchange([p.grad is not None for p in parameters]), strict=True)]
    wanted = [p for p, some in zip(parameters, there, strict=True) if some]
    for parameter in wanted:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    ranks.add_up([p.grad for p in wanted if p.grad is not None])
