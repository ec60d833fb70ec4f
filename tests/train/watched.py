"""Made series for the watch: columns of metrics, played step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rekindle.train.collapse import Sight, look
from rekindle.train.sections_watch import Watch
from rekindle.train.traces import Trace, fresh, remember, seen

ONE = Watch(start=1, smooth=1)
"""No means: what stands in a made series is what a signal sees."""
Evals = Mapping[int, Mapping[str, float]]


def records(columns: Mapping[str, Sequence[float]], evals: Evals | None = None) -> list[dict[str, Any]]:
    """A `step` record for each place of the columns, and an `eval` record behind the steps that `evals` names.

    That of step 0 is the record of the start model.
    """
    out: list[dict[str, Any]] = []
    if 0 in (evals or {}):
        out.append({"kind": "baseline", "step": 0, **{f"heldout/{n}": v for n, v in (evals or {})[0].items()}})
    for place in range(max(len(column) for column in columns.values())):
        out.append({"kind": "step", "step": place + 1, **{name: column[place] for name, column in columns.items()}})
        if place + 1 in (evals or {}):
            out.append({"kind": "eval", "step": place + 1, **(evals or {})[place + 1]})
    return out


def remembered(told: Sequence[Mapping[str, Any]], watch: Watch = ONE) -> dict[str, Any]:
    """The memory of a watch that has seen these records."""
    memory = fresh(any(record["kind"] != "step" for record in told))
    for record in told:
        remember(memory, record, watch)
    return memory


def traced(
    columns: Mapping[str, Sequence[float]], evals: Evals | None = None, *, free: bool = True, watch: Watch = ONE
) -> Trace:
    """What the signals see of a made series."""
    return seen(remembered(records(columns, evals), watch), free)


def sights(
    memory: dict[str, Any], told: Sequence[Mapping[str, Any]], watch: Watch = ONE, free: bool = True
) -> list[tuple[int, Sight]]:
    """(step, look) after each step's records, on a memory that goes on."""
    out = []
    for place, record in enumerate(told):
        remember(memory, record, watch)
        if record["kind"] != "baseline" and (place + 1 == len(told) or told[place + 1]["kind"] == "step"):
            out.append((record["step"], look(memory, free, watch)))
    return out
