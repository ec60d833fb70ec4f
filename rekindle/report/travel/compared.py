"""What a step was, against what it is when it is taken again: its responses, its verdicts, its metrics, its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekindle.tokens.rollouts import Rollouts
from rekindle.train.archive import facts_of, read_table, rows_of
from rekindle.train.archive_tokens import token_columns
from rekindle.train.run import Run

VERDICTS = ("answer", "success", "graded", "score", "label")
SAMPLED = "sampler/"
"""Metrics of an engine: of what it drew and of how it was brought up to date."""


@dataclass(frozen=True)
class Difference:
    """The first thing that differs. what: "prompts", "tokens", "scores", ... where: a name, a row, a position."""

    step: int
    what: str
    where: str

    def __str__(self) -> str:
        return f"step {self.step}, {self.what}: {self.where}"


Rows = Mapping[str, Sequence[Any]]
"""Column -> one value a row."""


def rows_of_file(path: Path) -> Rows:
    """All columns of a step's file, as lists; `tokens_kept` says whether its tokens are among them."""
    table = read_table(path)
    return {**table.to_pydict(), "tokens_kept": [facts_of(table) is not None] * table.num_rows}


def rows_of_run(run: Run) -> Rows:
    """The same of the step that `run` has just taken."""
    columns: dict[str, list[Any]] = {}
    for number, (rollouts, verdicts) in enumerate(run.last_rollouts):
        part = rows_of(rollouts, verdicts) | _lists(rollouts)
        part |= {"round": [number] * len(rollouts), "tokens_kept": [True] * len(rollouts)}
        part["trained"] = [uid in set(run.trained.tolist()) for uid in rollouts.uid.tolist()]
        for name, values in part.items():
            columns.setdefault(name, []).extend(values)
    return columns


def _lists(rollouts: Rollouts) -> dict[str, list[Any]]:
    return {name: values.to_pylist() for name, values in token_columns(rollouts).items()}


def differ_in_rows(step: int, ours: Rows, theirs: Rows) -> list[Difference]:
    """What differs in the rows of a step: of prompts, tokens, log-probs, verdicts and trained rows the first each."""
    a, b = ours.get("id", []), theirs.get("id", [])
    if len(a) != len(b):
        return [Difference(step, "prompts", f"{len(a)} responses and {len(b)}")]
    whole = bool(a) and all(ours["tokens_kept"]) and all(theirs["tokens_kept"])
    kinds = {
        "prompts": ("id", "prompt", *(["prompt_ids"] if whole else [])),
        "tokens": ("token_ids" if whole else "response",),
        "log-probs": ("token_logp", "token_logp_sampled", "token_entropy") if whole else ("logp", "entropy"),
        "scores": VERDICTS,
        "trained rows": ("round", "trained"),
    }
    found = (_first(step, what, names, ours, theirs) for what, names in kinds.items())
    return [difference for difference in found if difference is not None]


def _first(step: int, what: str, names: Iterable[str], ours: Rows, theirs: Rows) -> Difference | None:
    for name in names:
        if name not in ours or name not in theirs:
            continue
        for row, (mine, other) in enumerate(zip(ours[name], theirs[name], strict=True)):
            if not alike(mine, other):
                place = f"{name} of prompt '{ours['id'][row]}', row {row}"
                return Difference(step, what, f"{place}{_position(mine, other)}")
    return None


def _position(mine: Any, other: Any) -> str:
    if not isinstance(mine, list) or not isinstance(other, list):
        return f": {brief(mine)} and {brief(other)}"
    at = next((i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if not alike(a, b)), None)
    if at is None:
        return f": {len(mine)} and {len(other)} of them"
    return f", position {at}: {brief(mine[at])} and {brief(other[at])}"


def alike(mine: Any, other: Any) -> bool:
    """Equal; nan equals nan."""
    return mine == other or (mine != mine and other != other)


def brief(value: Any) -> str:
    """A value, in few characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def differ_in_values(ours: Mapping[str, Any], theirs: Mapping[str, Any], engine: bool = False) -> list[str]:
    """The metrics that differ, in the order of ours. engine: those that only an engine knows may be on one side."""
    names = dict.fromkeys([*ours, *theirs])
    if engine:
        names = [n for n in names if not n.startswith(SAMPLED) or (n in ours and n in theirs)]
    return [name for name in names if not alike(ours.get(name), theirs.get(name))]


def furthest(ours: Mapping[str, Any], theirs: Mapping[str, Any], names: Iterable[str]) -> float:
    """The largest relative difference of these metrics; infinite where one side has none."""
    far = 0.0
    for name in names:
        a, b = ours.get(name), theirs.get(name)
        if not isinstance(a, int | float) or not isinstance(b, int | float):
            return float("inf")
        far = max(far, abs(a - b) / max(abs(a), abs(b), 1e-12))
    return far
