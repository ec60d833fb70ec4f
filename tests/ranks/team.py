"""Ranks as threads of one process: they meet in `exchange`, as processes do, and cost nothing to start."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from rekindle.core.ranks import squares

T = TypeVar("T")


@dataclass
class Meeting:
    """Where threads leave values for each other. One that fails lets none of the others wait."""

    count: int
    told: list[Any] = field(default_factory=list)
    barrier: threading.Barrier = field(init=False)

    def __post_init__(self) -> None:
        self.told = [None] * self.count
        self.barrier = threading.Barrier(self.count, timeout=60)

    def exchange(self, index: int, value: Any) -> list[Any]:
        self.told[index] = value
        self.barrier.wait()
        found = list(self.told)
        self.barrier.wait()
        return found


@dataclass(frozen=True)
class Member:
    """One of the ranks."""

    index: int
    count: int
    meeting: Meeting
    sharded: bool = False

    def exchange(self, value: T) -> list[T]:
        return self.meeting.exchange(self.index, value)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        told = self.exchange([tensor.clone() for tensor in tensors])
        for i, tensor in enumerate(tensors):
            tensor.copy_(sum(one[i] for one in told))

    def norm(self, tensors: Sequence[Tensor]) -> float:
        return squares(tensors) ** 0.5


def together(count: int, work: Callable[[Member], T], sharded: bool = False) -> list[T]:
    """What `work` gives on each rank; the first error of any is raised."""
    meeting = Meeting(count)

    def one(index: int) -> T:
        try:
            return work(Member(index, count, meeting, sharded))
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(one, index) for index in range(count)]
    errors = [e for f in futures if (e := f.exception()) and not isinstance(e, threading.BrokenBarrierError)]
    if errors:
        raise errors[0]
    return [future.result() for future in futures]
