"""Two or more contestants in turn (A B A B ...), the matmul rate beside each, medians of paired ratios with range."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.work import Lengths, Matmul


@dataclass(frozen=True)
class Turn:
    """One turn of one side: seconds, what it worked on, and the matmul rate right before it."""

    seconds: float
    lengths: Lengths
    rate: float

    @property
    def per_token(self) -> float:
        """Seconds a real sampled token."""
        return self.seconds / self.lengths.tokens


def turns(
    sides: Mapping[str, Callable[[], Lengths]],
    pairs: int,
    warm: int = 1,
    before: Callable[[], None] | None = None,
    matmul: Matmul | None = None,
) -> dict[str, list[Turn]]:
    """Every side once a round, in the order given; the first `warm` rounds are dropped. before: opens a round."""
    matmul = matmul or Matmul()
    found: dict[str, list[Turn]] = {name: [] for name in sides}
    for turn in range(pairs + warm):
        if before is not None:
            before()
        for name, side in sides.items():
            rate = matmul()
            began = time.perf_counter()
            lengths = side()
            if turn >= warm:
                found[name].append(Turn(time.perf_counter() - began, lengths, rate))
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest, largest and how many."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "n": len(values),
    }


def ratio(slow: Sequence[Turn], fast: Sequence[Turn]) -> dict[str, Any]:
    """How many times faster `fast` is, pair by pair: by seconds a sampled token (`by_token`) and by turn (`plain`)."""
    pairs = list(zip(slow, fast, strict=True))
    return {
        "by_token": spread([a.per_token / b.per_token for a, b in pairs]),
        "plain": spread([a.seconds / b.seconds for a, b in pairs]),
    }


def described(side: Sequence[Turn], operations: Callable[[Lengths], float] | None = None) -> dict[str, Any]:
    """A side's seconds, tokens, tokens a second, matmul rate, and its share of the computed bound."""
    found = {
        "seconds": spread([t.seconds for t in side]),
        "tokens": spread([float(t.lengths.tokens) for t in side]),
        "tokens_per_s": spread([1.0 / t.per_token for t in side]),
        "matmul_gflops": spread([t.rate / 1e9 for t in side]),
    }
    if operations is not None:
        found["share"] = spread([operations(t.lengths) / t.rate / t.seconds for t in side])
    return found
