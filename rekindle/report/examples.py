"""Prompts ranked by the historical variance of their success share, to choose one for one-shot RLVR (arXiv 2504.20571).

The score of a prompt is the population variance of its success shares over the visits of a run; a reversal of time
leaves it as it is. High variance mostly means that the prompt went from unsolved to solved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rekindle.errors import InputError
from rekindle.report.origin import STEP
from rekindle.tokens.chat import first_line
from rekindle.tokens.reading import bytes_of, object_of

DAMAGED = "restore the file, or delete it to read an earlier one"
History = Mapping[str, Sequence[float]]
"""Prompt id -> success share of each visit, oldest first."""


@dataclass(frozen=True)
class Ranked:
    """A prompt and its history: population variance and mean of `visits` success shares."""

    id: str
    variance: float
    mean: float
    visits: int

    @property
    def deviation(self) -> float:
        """The population standard deviation, which the paper's code ranks by: the same order."""
        return math.sqrt(self.variance)


def rank(history: History) -> list[Ranked]:
    """The visited prompts, highest variance first; ties stay in the order of the history."""
    found = [
        Ranked(name, variance(shares), math.fsum(shares) / len(shares), len(shares))
        for name, shares in history.items()
        if shares
    ]
    return sorted(found, key=lambda r: -r.variance)


def variance(shares: Sequence[float]) -> float:
    """Population variance; exactly 0 where all shares are equal."""
    if min(shares) == max(shares):
        return 0.0
    mean = math.fsum(shares) / len(shares)
    return math.fsum((share - mean) ** 2 for share in shares) / len(shares)


@dataclass(frozen=True)
class Read:
    """A history and where it was read from."""

    history: History
    source: str


def read_history(run: Path) -> Read:
    """The history in the run's newest checkpoint, else in its kept rollouts; InputError where there is neither."""
    if not run.is_dir():
        raise InputError(f"'{run}' is no run folder: give the folder that `rekindle train` wrote")
    files = (file for file in (run / "checkpoints").glob("step-*/state/run.json") if STEP.match(file.parts[-3]))
    states = sorted(files, key=lambda file: int(file.parts[-3].removeprefix("step-")))
    held = saved_history(states[-1]) if states else {}
    if held:
        return Read(held, f"the checkpoint {states[-1].parts[-3]}")
    files = sorted((run / "rollouts").glob("step-*.parquet"))
    history = from_rollouts(files)
    if not history:
        raise InputError(
            f"{run} holds no history of its prompts: neither a checkpoint nor kept rollouts; train with "
            "checkpoint.every or checkpoint.rollouts above 0"
        )
    return Read(history, f"the rollouts of {len(files)} steps")


def saved_history(file: Path) -> History:
    """The history in a checkpoint's run.json, {} where it has none; InputError where it is damaged."""
    memory = object_of(file, DAMAGED).get("memory")
    held = memory.get("history", {}) if isinstance(memory, dict) else None
    if not isinstance(held, dict):
        raise InputError(f"{file}: 'memory' holds no history: {DAMAGED}")
    for name, shares in held.items():
        if not isinstance(shares, list) or not all(isinstance(one, int | float) and 0 <= one <= 1 for one in shares):
            raise InputError(f"{file}: the history of '{name[:80]}' is no list of shares from 0 to 1: {DAMAGED}")
    return held


def from_rollouts(files: Sequence[Path]) -> dict[str, list[float]]:
    """The history in files of rollouts, in their order: a group of a prompt is a visit, ungraded rows do not count."""
    history: dict[str, list[float]] = {}
    for file in files:
        bytes_of(file, DAMAGED, read=False)
        try:
            held = pq.read_table(file, columns=["id", "group", "success", "graded"]).to_pydict()
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise InputError(f"{file}: no readable rollouts ({first_line(error)}): {DAMAGED}") from None
        visits: dict[tuple[str, int], list[bool]] = {}
        for name, group, success, graded in zip(*held.values(), strict=True):
            if graded:
                visits.setdefault((name, group), []).append(success)
        for (name, _), right in visits.items():
            history.setdefault(name, []).append(sum(right) / len(right))
    return history


@dataclass(frozen=True)
class Flat:
    """Prompts whose share never changed, of which some were never and some always solved; `once`: one visit only."""

    prompts: int
    never: int
    always: int
    once: int


def flat(ranked: Sequence[Ranked]) -> Flat:
    """How many prompts never varied: their order at the end of the list is arbitrary."""
    same = [r for r in ranked if r.variance == 0]
    return Flat(
        len(same), sum(r.mean == 0 for r in same), sum(r.mean == 1 for r in same), sum(r.visits == 1 for r in same)
    )
