"""The tokens of a recorded step as flat arrays, and what a page says of them: one pass over a run's rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rekindle.report.page.panels import groups_of
from rekindle.report.recording import Recording
from rekindle.tokens.demonstrations import FINISH as DEMONSTRATION
from rekindle.train.credits import BOUNDS

MOST_STEPS = 48
"""Steps of a run whose tokens are looked at, evenly spread."""
FORKING = 0.2
"""Share of a step's tokens, the most uncertain ones, that are called forking (Wang et al., arXiv 2506.01939)."""
BINS = 20
"""Parts of a response, from its first token to its last, by which entropy is shown."""


@dataclass(frozen=True)
class Tokens:
    """Flat columns [N] of one step; None where they were not recorded. row: the response of each token.

    Numbers are NaN where the policy did not choose: at tokens that a sampling rule forced, in demonstrations.
    """

    row: np.ndarray
    place: np.ndarray
    logp: np.ndarray | None
    entropy: np.ndarray | None
    advantage: np.ndarray | None
    ratio: np.ndarray | None
    text: pa.Array | None


def tokens_of(table: pa.Table) -> Tokens | None:
    """The tokens of a table of rollouts; None where it has no list a token."""
    lists = [name for name in ("token_logp", "token_entropy", "token_text", "token_ids") if name in table.column_names]
    if not lists or not len(table):
        return None
    sizes = np.asarray(table.column(lists[0]).combine_chunks().value_lengths().fill_null(0))
    row = np.repeat(np.arange(len(sizes)), sizes)
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = (np.arange(len(row)) - start) / np.maximum(1, np.repeat(sizes, sizes))
    own = chosen(table, row, sizes)
    logp, entropy = (_where(own, flat(table, name, sizes)) for name in ("token_logp", "token_entropy"))
    return Tokens(
        row=row,
        place=place,
        logp=logp,
        entropy=entropy,
        advantage=_where(own, advantages(table, row, sizes)),
        ratio=flat(table, "token_ratio", sizes),
        text=texts(table, len(row)),
    )


def chosen(table: pa.Table, row: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which tokens the policy chose [N]."""
    mask = flat(table, "token_mask", sizes)
    own = np.ones(len(row), dtype=bool) if mask is None else mask != 0  # NaN, of a round without a mask, is no 0
    if "finish" not in table.column_names:
        return own
    return own & np.array([finish != DEMONSTRATION for finish in table.column("finish").to_pylist()], dtype=bool)[row]


def _where(own: np.ndarray, values: np.ndarray | None) -> np.ndarray | None:
    return None if values is None else np.where(own, values, np.nan)


def flat(table: pa.Table, name: str, sizes: np.ndarray) -> np.ndarray | None:
    """A list column as one array, NaN for responses without it; None where it is missing or of another length."""
    if name not in table.column_names:
        return None
    column = table.column(name).combine_chunks()
    if pa.types.is_null(column.type):
        return None
    own = np.asarray(column.value_lengths().fill_null(0))
    values = np.asarray(column.drop_null().flatten().cast(pa.float64()).fill_null(np.nan))
    if (own == sizes).all():
        return values
    found, starts = np.full(int(sizes.sum()), np.nan), np.cumsum(sizes) - sizes
    ends = np.cumsum(own)
    for i in np.flatnonzero(own):
        count = min(own[i], sizes[i])
        found[starts[i] : starts[i] + count] = values[ends[i] - own[i] : ends[i] - own[i] + count]
    return found


def advantages(table: pa.Table, row: np.ndarray, sizes: np.ndarray) -> np.ndarray | None:
    """The advantage of every token: its own, or that of its response."""
    if "token_advantage" in table.column_names:
        return flat(table, "token_advantage", sizes)
    if "advantage" not in table.column_names:
        return None
    return np.array([np.nan if a is None else a for a in table.column("advantage").to_pylist()], dtype=float)[row]


def texts(table: pa.Table, count: int) -> pa.Array | None:
    """The text of every token."""
    if "token_text" not in table.column_names:
        return None
    found = table.column("token_text").combine_chunks().flatten()
    return found if len(found) == count else None


@dataclass
class Measured:
    """What the tokens of one step show; a value is NaN where its columns were not recorded.

    covariance: of log-prob and advantage over tokens (Cui et al., arXiv 2505.22617: entropy changes by minus it, times
    the learning rate). mass: share of |advantage| on clipped tokens, through the (low, high) side; lost: the part of
    minus the covariance that these tokens hold, in nats per unit of step.
    """

    step: int
    entropy: float = np.nan
    forking: float = np.nan
    filler: float = np.nan
    covariance: float = np.nan
    mass: tuple[float, float] = (np.nan, np.nan)
    lost: tuple[float, float] = (np.nan, np.nan)
    positions: np.ndarray = field(default_factory=lambda: np.full(BINS, np.nan))
    words: dict[str, tuple[float, int]] = field(default_factory=dict)


def spread_steps(steps: Sequence[int], most: int = MOST_STEPS) -> list[int]:
    """At most `most` of the steps, evenly spread, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def shared_steps(kept: Sequence[Sequence[int]], most: int = MOST_STEPS) -> list[list[int]]:
    """Of the steps of each run of a group, at most `most`: the same ones where several have them, and their ends."""
    whole = sorted(set[int]().union(*kept))
    ends = {steps[i] for steps in kept if steps for i in (0, -1)}
    spread = spread_steps(whole, max(2, most - len(ends - set(whole[:1] + whole[-1:]))))
    plan = sorted({*spread, *ends})
    return [[step for step in plan if step in own] for own in map(set, kept)]


def measured(
    runs: Sequence[Recording], cache: dict[tuple[Path, int, str], Measured]
) -> dict[Recording, list[Measured]]:
    """The kept steps of each run, at most MOST_STEPS of them; steps in the cache are not read again."""
    found: dict[Recording, list[Measured]] = {}
    for own in groups_of(runs).values():
        for run, steps in zip(own, shared_steps([run.kept for run in own]), strict=True):
            found[run] = [_once(run, step, cache) for step in steps]
    return {run: found[run] for run in runs}


def _once(run: Recording, step: int, cache: dict[tuple[Path, int, str], Measured]) -> Measured:
    key = (run.folder, step, run.version(step))
    if key not in cache:
        cache[key] = measure(step, run.table(step))
    return cache[key]


def measure(step: int, table: pa.Table) -> Measured:
    """What the tokens of a table show."""
    found, tokens = Measured(step), tokens_of(table)
    if tokens is None:
        return found
    if tokens.entropy is not None and len(tokens.entropy):
        _entropies(found, tokens, tokens.entropy)
    if tokens.logp is not None and tokens.advantage is not None:
        _credits(found, tokens, tokens.logp, tokens.advantage, bounds_of(table))
    return found


def bounds_of(table: pa.Table) -> tuple[float, float] | None:
    """The bounds of the clipped ratio, where the table says them."""
    told = (table.schema.metadata or {}).get(BOUNDS)
    if told is None:
        return None
    low, high = (float(part) for part in told.decode().split())
    return low, high


def _entropies(found: Measured, tokens: Tokens, entropy: np.ndarray) -> None:
    live = np.isfinite(entropy)
    values = entropy[live]
    if not len(values):
        return
    found.entropy = float(values.mean())
    top = np.argsort(-values, kind="stable")[: max(1, round(FORKING * len(values)))]
    forks = np.zeros(len(values), dtype=bool)
    forks[top] = True
    found.forking = float(values[forks].mean())
    found.filler = float(values[~forks].mean()) if (~forks).any() else np.nan
    part = np.minimum((tokens.place[live] * BINS).astype(int), BINS - 1)
    sums, counts = np.bincount(part, values, BINS), np.bincount(part, minlength=BINS)
    found.positions = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    if tokens.text is not None:
        found.words = _words(tokens.text.filter(pa.array(live)), values)


def _words(text: pa.Array, values: np.ndarray) -> dict[str, tuple[float, int]]:
    """Token -> (summed entropy, times)."""
    coded = text.fill_null("").dictionary_encode()
    place, words = np.asarray(coded.indices), coded.dictionary.to_pylist()
    sums, counts = np.bincount(place, values), np.bincount(place)
    return {w: (float(s), int(c)) for w, s, c in zip(words, sums, counts, strict=True)}


def _credits(
    found: Measured, tokens: Tokens, logp: np.ndarray, advantage: np.ndarray, bounds: tuple[float, float] | None
) -> None:
    live = np.isfinite(advantage) & np.isfinite(logp)
    if not live.any():
        return
    a, lp = advantage[live], logp[live]
    part = -(lp - lp.mean()) * (a - a.mean()) / len(a)
    found.covariance = float(-part.sum())
    if bounds is None:
        return
    ratio: Any = np.ones(len(a)) if tokens.ratio is None else tokens.ratio[live]
    sides = ((a < 0) & (ratio < bounds[0]), (a > 0) & (ratio > bounds[1]))
    total = np.abs(a).sum()
    low, high = (float(np.abs(a[side]).sum() / total) if total else 0.0 for side in sides)
    found.mass = (low, high)
    found.lost = (float(part[sides[0]].sum()), float(part[sides[1]].sum()))
