"""A run's endless stream of prompts, and ways to take from it: thinned by a probability, distinct, drawn by weight."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch

from rekindle.core.random import uniforms
from rekindle.errors import GuardStop
from rekindle.tokens.rollouts import Example


def stretch(examples: Sequence[Example], start: int, count: int, seed: int) -> list[Example]:
    """Prompts start .. start + count - 1 of an endless stream; each epoch a shuffle of seed and epoch alone."""
    total = len(examples)
    orders = {e: _order(total, seed, e) for e in range(start // total, (start + count - 1) // total + 1)}
    return [examples[orders[i // total][i % total]] for i in range(start, start + count)]


@functools.lru_cache(maxsize=2)  # every step asks for its epoch's order, and a large data set takes a while to shuffle
def _order(total: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(total))
    Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)


def counted_uniforms(run: Any, count: int) -> list[float]:
    """`count` uniforms that no other draw of the run uses; how many there were is in `run.memory["uniforms"]`."""
    first = run.memory.setdefault("uniforms", 0)
    run.memory["uniforms"] += count
    # The sampler hashes (key, uid): another key, so that no prompt's fate is tied to a response's first token.
    return uniforms(run.key - 1, torch.arange(first, first + count), 1)[:, 0].tolist()


def thinned(run: Any, count: int, keep: Callable[[Example], float], patience: int = 2000) -> list[Example]:
    """The next `count` prompts of the stream, each kept with probability `keep`.

    Asks the stream at most `patience` times for what is missing (2000: at a keep of 0.01 not enough once in 1e9), then
    GuardStop.
    """
    kept: list[Example] = []
    for _ in range(patience):
        found = run.next_examples(count - len(kept))
        draws = counted_uniforms(run, len(found))
        kept += [e for e, u in zip(found, draws, strict=True) if u < keep(e)]
        if len(kept) == count:
            return kept
    raise GuardStop(
        f"only {len(kept)} of {count} prompts were left after {patience} looks at the data: nearly all were skipped as "
        "solved or unsolved; use harder or easier data, or raise the share that is kept all the same"
    )


def distinct(run: Any, count: int) -> list[Example]:
    """The next `count` prompts of the stream without repetitions, so fewer where the data is smaller."""
    return list({e.id: e for e in run.next_examples(count)}.values())


def drawn(run: Any, examples: Sequence[Example], weights: Sequence[float], count: int) -> list[Example]:
    """`count` of `examples` without replacement, by weight (exponential race); around again where there are fewer.

    weights: above 0.
    """
    clock = -torch.tensor(counted_uniforms(run, len(examples)), dtype=torch.float64).log()
    order = torch.argsort(clock / torch.tensor(weights, dtype=torch.float64), stable=True).tolist()
    return [examples[order[i % len(order)]] for i in range(count)]


def saturation(shares: Sequence[float], easy: float, hard: float) -> tuple[str | None, int]:
    """What the latest visits of a prompt say: ("easy" or "hard", how many in a row say so), else (None, 0)."""
    kinds = ["easy" if s >= easy else "hard" if s <= hard else None for s in reversed(shares)]
    if not kinds or kinds[0] is None:
        return None, 0
    return kinds[0], next((i for i, kind in enumerate(kinds) if kind != kinds[0]), len(kinds))


def moving_average(shares: Sequence[float], weight: float) -> float:
    """The exponential moving average of one visit or more, oldest first; `weight`: of the newest."""
    average = shares[0]
    for share in shares[1:]:
        average += weight * (share - average)
    return average
