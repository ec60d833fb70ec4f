"""What is measured: the rows of every item, with the number of pairs that fits a whole run into half an hour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ROWS = 4
# (c): setting -> (rows a backward pass, TRL's gradient checkpointing)
MEMORY = {
    "rekindle": (ROWS, False),
    "rekindle, a row at a time": (1, False),
    "trl, its defaults": (ROWS, True),
    "trl, no checkpointing": (ROWS, False),
    "trl, a row at a time": (1, True),
}
PRECISIONS = ("full", "bf16")
PAIRS = {"toy": 2, "1M": 7, "10M": 5, "60M": 3, "100M": 3}
# (b): the engines beside ours and `generate`. Most of the time goes to starting them and to continuous batching.
ENGINES = {
    "toy": ("vllm eager", "generate, continuous batching"),
    "1M": ("vllm eager", "vllm compiled", "generate, continuous batching"),
    "10M": ("vllm eager", "vllm compiled", "generate, continuous batching"),
    "60M": ("vllm eager",),
}


@dataclass(frozen=True)
class Row:
    """One measurement in a process of its own. rival: whether it needs the environment of TRL."""

    key: str
    keywords: dict[str, Any]
    rival: bool = False


@dataclass(frozen=True)
class Asked:
    """What the user chose: sizes (None: all), pairs (None: as planned), and whether TRL and vLLM are there."""

    sizes: tuple[str, ...] | None
    pairs: int | None
    quick: bool
    trl: bool
    vllm: str

    def of(self, sizes: tuple[str, ...]) -> list[str]:
        """The sizes to measure of those that an item has."""
        if self.quick:
            return ["toy"]
        return [size for size in sizes if self.sizes is None or size in self.sizes]

    def count(self, size: str) -> int:
        """Pairs."""
        return self.pairs or PAIRS[size]


def step(asked: Asked) -> list[Row]:
    """(a)"""
    sizes = asked.of(("1M", "10M", "60M"))
    return [Row(s, {"name": s, "pairs": asked.count(s), "rival": asked.trl}, rival=asked.trl) for s in sizes]


def sampler(asked: Asked) -> list[Row]:
    """(b)"""
    sizes = asked.of(("1M", "10M", "60M"))
    return [Row(s, {"name": s, "pairs": asked.count(s), "vllm": asked.vllm, "also": ENGINES[s]}) for s in sizes]


def memory(asked: Asked) -> list[Row]:
    """(c)"""
    name, length = ("toy-wide", 64) if asked.quick else ("wide", 1024)
    settings = [s for s in MEMORY if asked.trl or not s.startswith("trl")]
    settings = [s for s in settings if s in ("rekindle", "trl, its defaults")] if asked.quick else settings
    return [Row(s, {"name": name, "length": length, "setting": s}, rival=asked.trl) for s in settings]


def training(asked: Asked) -> list[Row]:
    """(d)"""
    sizes = asked.of(("1M", "10M", "100M"))
    return [Row(f"{s} {p}", {"name": s, "pairs": asked.count(s), "precision": p}) for s in sizes for p in PRECISIONS]


def growth(asked: Asked) -> list[Row]:
    """(e)"""
    sizes = asked.of(("1M",))
    repeats = asked.pairs or (2 if asked.quick else 5)
    whats = ("group",) if asked.quick else ("group", "limit", "prompts")
    return [Row(w, {"name": s, "repeats": repeats, "what": w}) for s in sizes for w in whats]


def exactness(asked: Asked) -> list[Row]:
    """(f)"""
    return [Row(s, {"name": s, "pairs": asked.count(s)}) for s in asked.of(("1M", "10M"))]


def parts(asked: Asked) -> list[Row]:
    """(g)"""
    return [Row(s, {"name": s, "pairs": asked.count(s)}) for s in asked.of(("1M", "10M", "60M"))]


ITEMS: dict[str, Callable[[Asked], list[Row]]] = {
    "step": step,
    "sampler": sampler,
    "memory": memory,
    "training": training,
    "growth": growth,
    "exactness": exactness,
    "parts": parts,
}
