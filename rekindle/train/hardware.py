"""What a run computes on: the machine that this is, or one that a user supposes (`--assume-gpus 8x80GiB`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from rekindle.errors import InputError
from rekindle.tokens.loader import resolve_device

_GPUS = re.compile(r"(?:(\d+)x)?(\d+(?:\.\d+)?)(GiB|GB)", re.IGNORECASE)
_UNITS = {"gib": 2**30, "gb": 10**9}
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
TAKEN: Mapping[str, int] = MappingProxyType({"gpu": 2**30, "cpu": 2**29})
"""Bytes that CUDA's context and its libraries' buffers take; that Python and torch take."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """gpus: how many, 0 for a CPU. memory: bytes of each GPU, or of the machine. assumed: by the user."""

    gpus: int
    memory: int
    assumed: bool = False

    @property
    def gpu(self) -> bool:
        """Whether the run computes on GPUs."""
        return self.gpus > 0

    def room(self, ranks: int) -> int:
        """Bytes that one of `ranks` has for itself, without what its libraries take."""
        if not self.gpu:
            return self.memory // ranks - TAKEN["cpu"]
        return self.memory // -(-ranks // self.gpus) - TAKEN["gpu"]

    def __str__(self) -> str:
        size = f"{self.memory / 2**30:.4g} GiB"
        return f"{self.gpus} GPU{'s' if self.gpus > 1 else ''} of {size}" if self.gpu else f"a CPU with {size}"


def assumed(text: str) -> Hardware:
    """The GPUs of "8x80GiB" or "24GB"; InputError for anything else."""
    found = _GPUS.fullmatch(text.strip())
    count = int(found[1] or 1) if found else 0
    memory = round(float(found[2]) * _UNITS[found[3].lower()]) if found else 0
    if count < 1 or memory <= TAKEN["gpu"]:
        raise InputError(
            f"--assume-gpus {text}: write COUNTxMEMORY, as in 1x80GiB or 8x24GB, with more than the 1 GiB that the "
            "libraries take"
        )
    return Hardware(gpus=count, memory=memory, assumed=True)


def own(device: str) -> Hardware:
    """The machine's: its GPUs where `device` is one ("cuda:1": that one), else its memory, or a container's limit."""
    place = resolve_device(device)
    if place.type == "cuda":
        first = place.index or 0
        count = 1 if place.index is not None else torch.cuda.device_count()
        return Hardware(gpus=count, memory=torch.cuda.get_device_properties(first).total_memory)
    return Hardware(gpus=0, memory=min(_installed(), *_limits()))


def _installed() -> int:
    """Bytes of the machine's memory; what no machine has where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 2**62
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemTotal:"))


def _limits() -> list[int]:
    """Bytes that a container allows, if it does."""
    texts = [Path(file).read_text(encoding="ascii").strip() for file in _LIMITS if Path(file).is_file()]
    return [int(text) for text in texts if text.isdigit()] or [2**62]
