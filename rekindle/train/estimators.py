"""Estimators of what n samples a prompt show: pass@k, avg@k and maj@k, each unbiased over subsets of size k."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

DRAWS = 1000


def pass_at_k(n: int, right: int, k: int) -> float:
    """Probability that a subset of k of n samples holds a right one: 1 - C(n - c, k) / C(n, k) (arXiv 2107.03374).

    >>> [round(pass_at_k(8, 3, k), 4) for k in (1, 4, 8)]
    [0.375, 0.9286, 1.0]
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} samples a prompt, there are {n}")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def maj_at_k(answers: Sequence[str | None], right: Sequence[bool], k: int, seed: int = 0) -> float:
    """Expected correctness of the most frequent answer among k of n samples.

    Unparsed answers (None) do not vote; if none of the k parsed the value is 0; ties share the credit. Exact where
    there are at most `DRAWS` subsets, else over `DRAWS` random subsets without replacement.
    """
    n = len(answers)
    if not 1 <= k <= n:
        raise ValueError(f"maj@{k} needs at least {k} samples a prompt, there are {n}")
    names = sorted({a for a in answers if a is not None})
    if not names:
        return 0.0
    votes = np.array([[a == name for name in names] for a in answers], dtype=np.float64)
    credit = np.array([any(r for a, r in zip(answers, right, strict=True) if a == name) for name in names], dtype=float)
    counts = _subsets(n, k, seed) @ votes
    top = (counts == counts.max(axis=1, keepdims=True)) & (counts > 0)
    return float(((top * credit).sum(axis=1) / np.maximum(top.sum(axis=1), 1)).mean())


def _subsets(n: int, k: int, seed: int) -> np.ndarray:
    """Indicator rows of subsets of size k of n: all of them, or `DRAWS` random ones."""
    if math.comb(n, k) <= DRAWS:
        chosen = np.array(list(combinations(range(n), k)))
    else:
        chosen = np.random.default_rng(seed).random((DRAWS, n)).argpartition(k - 1, axis=1)[:, :k]
    rows = np.zeros((len(chosen), n))
    np.put_along_axis(rows, chosen, 1.0, axis=1)
    return rows


def standard_error(values: Sequence[float]) -> float:
    """Standard error of a mean over prompts (sample standard deviation / sqrt(P)); NaN for fewer than two."""
    if len(values) < 2:
        return float("nan")
    return float(np.std(np.asarray(values), ddof=1) / math.sqrt(len(values)))
