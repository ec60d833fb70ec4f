"""Digests of what trains: 64 bits a tensor, whatever the ranks, so that runs can be compared without their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.distributed.tensor import DTensor

from rekindle.core.ranks import Ranks
from rekindle.tokens.sampling.fingerprints import exact

Digests = dict[str, str]
"""Tensor name -> 16 hexadecimal digits."""


def digests(named: Sequence[tuple[str, Tensor]], ranks: Ranks) -> Digests:
    """The digest of every tensor; all ranks call it where weights lie in shares, and get the same."""
    mine = {name: _share(tensor, ranks) if isinstance(tensor, DTensor) else exact(tensor) for name, tensor in named}
    shared = [name for name, tensor in named if isinstance(tensor, DTensor)]
    if shared:
        told = ranks.exchange({name: mine[name] for name in shared})
        mine |= {name: sum(one[name] for one in told) for name in shared}
    return {name: f"{value % 2**64:016x}" for name, value in mine.items()}


def _share(tensor: DTensor, ranks: Ranks) -> int:
    """The part of this rank: FSDP2 cuts the first axis into chunks of one size, the last ones smaller or empty."""
    local = tensor.to_local()
    rows = -(-tensor.shape[0] // ranks.count)
    inner = tensor.numel() // max(1, tensor.shape[0])
    return exact(local, min(ranks.index * rows, tensor.shape[0]) * inner)


def differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """The tensors that differ, or that one side lacks, in the order of ours."""
    names = dict.fromkeys([*ours, *theirs])
    return [name for name in names if ours.get(name) != theirs.get(name)]
