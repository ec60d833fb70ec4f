"""Ranks as processes of `torch.distributed`: gloo for objects and on CPUs, NCCL for the gradients of GPUs.

Started by `rekindle train --ranks N` (train/launch.py), by torchrun or by accelerate: all of them set RANK, WORLD_SIZE,
LOCAL_RANK and the address to meet at.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from rekindle.core.ranks import Alone, Ranks, Together, squares
from rekindle.errors import EngineDead, GuardStop, InputError, Stopped, StoppedByHand
from rekindle.tokens.loader import resolve_device

ONE_RANK = "shard=full shares the weights among ranks, and there is one: add --ranks N, or drop it"
T = TypeVar("T")

BUCKET = 2**25
"""Entries of gradients that are summed in one message: few messages, and little memory beside the gradients."""
PATIENCE = timedelta(hours=2)  # for a rank that is alive and busy; a dead one is noticed at once
MEETING = "REKINDLE_MEETING"
"""Environment of a rank that `rekindle train --ranks` started: the file in which all of them find each other."""
GONE = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "NCCL error", "NCCL communicator")
"""What torch says where the other end of a message is gone, in errors that have no class of their own."""
_SET = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RankLost(EngineDead):
    """Another rank is gone: what ended it is said there."""


FORESEEN: tuple[type[Exception], ...] = (RankLost, EngineDead, GuardStop, InputError, StoppedByHand, Stopped)


def kind_of(error: Exception) -> type[Exception]:
    """The foreseen kind that an error is, or is derived from: another process need not know a class of the user's."""
    return next(kind for kind in FORESEEN if isinstance(error, kind))


@dataclass(frozen=True)
class Place:
    """Which rank this process was started as: index of `count`, `local` on its machine."""

    index: int
    count: int
    local: int


def started(environment: Mapping[str, str] = os.environ) -> Place | None:
    """The rank that a launcher made this process, and be it the only one; None where none did."""
    if any(name not in environment for name in _SET):
        return None
    index, count = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    return Place(index, count, int(environment.get("LOCAL_RANK", index)))


def place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """The rank that a launcher made this process; None where none did, or one of a single process."""
    here = started(environment)
    return here if here is not None and here.count > 1 else None


@dataclass(frozen=True)
class Processes:
    """The ranks of the process group of this process. sharded: their weights lie in shares (`shard=full`)."""

    index: int
    count: int
    sharded: bool = False

    def exchange(self, value: T) -> list[T]:
        """The values of all ranks. Only these processes read what is sent."""
        told: list[Any] = [None] * self.count
        with lost(self.index):
            dist.all_gather_object(told, value)
        return told

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Sums over the ranks, in buckets of one dtype and device, in place."""
        for bucket in buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with lost(self.index):
                dist.all_reduce(flat, dist.ReduceOp.SUM)
            for tensor, total in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def norm(self, tensors: Sequence[Tensor]) -> float:
        """The norm of all as one vector: the shares of all ranks, whole tensors once."""
        shares = [t.to_local() for t in tensors if isinstance(t, DTensor)]
        whole = squares([t for t in tensors if not isinstance(t, DTensor)])
        return math.sqrt(whole + (sum(self.exchange(squares(shares))) if self.sharded else 0.0))


def buckets(tensors: Sequence[Tensor], limit: int = BUCKET) -> list[list[Tensor]]:
    """The tensors in their order, cut where the dtype or device changes and where a bucket has `limit` entries."""
    found: list[list[Tensor]] = []
    for tensor in tensors:
        last = found[-1] if found else []
        alike = bool(last) and (last[0].dtype, last[0].device) == (tensor.dtype, tensor.device)
        if not alike or sum(t.numel() for t in last) + tensor.numel() > limit:
            found.append([])
        found[-1].append(tensor)
    return found


@contextmanager
def lost(index: int) -> Iterator[None]:
    """Turns a failed exchange into `RankLost`: the processes talk to each other only as long as all live."""
    try:
        yield
    except RuntimeError as error:
        raise _alone(index, error) from None


@contextmanager
def noticed(ranks: Ranks) -> Iterator[None]:
    """Turns what torch says of a rank that is gone into `RankLost` wherever it is said: shares gather themselves."""
    try:
        yield
    except RuntimeError as error:
        foreseen = isinstance(error, FORESEEN)
        gone = isinstance(error, dist.DistError) or any(words in str(error) for words in GONE)
        if ranks.count == 1 or foreseen or not gone:
            raise
        raise _alone(ranks.index, error) from None


def _alone(index: int, error: RuntimeError) -> RankLost:
    return RankLost(
        f"rank {index} lost the other ranks ({str(error).splitlines()[0][:120]}): one of them has ended, see what "
        "it said; the same command with --resume goes on from the last checkpoint"
    )


def agreed(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """What `work` gives on each rank. Where it fails on one for a foreseen reason, all ranks fail for that reason."""
    if ranks.count == 1:
        return [work()]
    failure: tuple[type[Exception], str] | None = None
    value: T | None = None
    try:
        value = work()
    except FORESEEN as error:
        failure = (kind_of(error), str(error))
    told: list[Any] = ranks.exchange((value, failure))
    for _, failed in told:
        if failed is not None:
            raise failed[0](failed[1])
    return [value for value, _ in told]


def meeting(here: Place, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Where the ranks find each other: in a file where `rekindle train --ranks` started them, else at the address."""
    if MEETING not in environment:
        return {}
    # No URL: a folder may be called `a#b`. torch documents the class there.
    store = dist.FileStore(environment[MEETING], here.count)  # pyright: ignore[reportPrivateImportUsage]
    store.set_timeout(PATIENCE)
    return {"store": store, "rank": here.index, "world_size": here.count}


def device_of(device: str, here: Place | None) -> str:
    """The device of this rank: "cuda" is the GPU of its local number. InputError where all would take one GPU.

    "auto" is "cuda" where there are GPUs.
    """
    if here is None or device == "cpu":
        return device
    if device.startswith("cuda:"):
        raise InputError(f"device={device} names one GPU for {here.count} ranks: set device=cuda, a GPU each")
    if resolve_device(device).type != "cuda":
        return device
    if here.local >= torch.cuda.device_count():
        have = torch.cuda.device_count()
        raise InputError(f"local rank {here.local} has no GPU of its own ({have} here): start {have} ranks a machine")
    return f"cuda:{here.local}"


@contextmanager
def joined(count: int, device: str, sharded: bool) -> Iterator[Together]:
    """The ranks that this process belongs to, for `count` of them. device: of this rank.

    A process group that is there already is used and left alone. InputError where this is a single process.
    """
    here = place()
    if here is None or count == 1:
        if count > 1:
            raise InputError(
                f"ranks={count}, but this is a single process: start it by `rekindle train --ranks {count}`, by "
                f"`torchrun --nproc-per-node {count}` or by accelerate"
            )
        if sharded:
            raise InputError(ONE_RANK)
        yield Alone()
        return
    mine = not dist.is_initialized()
    if mine:
        on_gpu = device.startswith("cuda")
        if on_gpu:
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, **meeting(here), timeout=PATIENCE)
    done = False
    try:
        yield Processes(here.index, here.count, sharded)
        done = True
    finally:
        # A rank of `rekindle train --ranks` ends with its error. Its group is not taken down: threads of torch may be
        # in an exchange that nobody completes, and abort the process.
        if mine and dist.is_initialized() and (done or MEETING not in os.environ):
            dist.destroy_process_group()
