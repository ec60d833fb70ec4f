"""Warnings of a run: a level that rises above its limit is told once, and again only after it has fallen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rekindle.train.events import Log

if TYPE_CHECKING:
    from rekindle.train.run import Run

LEVELS, ACTIVE = "levels", "warned"
"""In `run.watched`: the levels that this step has measured so far, and what has been told and has not ended."""
RELIEF = 0.8
"""An episode ends below this share of its limit, so that a level that wavers around the limit is told once. House."""
WARNING = "warning"

Number = float | int | str
Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Level:
    """Something that should stay at or below its limit. what: names it, always in the same words; value, limit: of now.

    numbers: what the user is told; remedy: what to do, as the end of a sentence.
    """

    what: str
    value: float | int
    limit: float | int
    numbers: Mapping[str, Number]
    remedy: str


def raise_level(run: Run, level: Level) -> None:
    """Add a level to those of this step: plain values, saved with a run that is stopped inside the step."""
    run.watched.setdefault(LEVELS, []).append({**asdict(level), "numbers": dict(level.numbers)})


def raised(run: Run) -> list[Level] | None:
    """The levels of this step, which are then forgotten; None where the step has measured none."""
    told = run.watched.pop(LEVELS, None)
    return None if told is None else [Level(**one) for one in told]


def warn(run: Run, levels: Sequence[Level], log: Log, heard: Listener) -> None:
    """Tell of each level that is above its limit, once an episode: an event `warning`, and a note for the live view.

    A level that is not measured stays as it was. What was told is saved with the run: a resumed one tells the same.
    """
    active: list[str] = list(run.watched.get(ACTIVE, []))
    for level in levels:
        if level.value > level.limit and level.what not in active:
            active.append(level.what)
            told = {"what": level.what, "numbers": dict(level.numbers), "remedy": level.remedy}
            heard(log.write(WARNING, run.step_index, told))
            heard({"kind": "note", "step": run.step_index, "text": sentence(level)})
        elif level.value <= RELIEF * level.limit and level.what in active:
            active.remove(level.what)
    if active or ACTIVE in run.watched:
        run.watched[ACTIVE] = active


def sentence(level: Level) -> str:
    """'warning: responses were cut off (share 0.75, limit 0.5): raise rollout.max_tokens'."""
    numbers = ", ".join(f"{name} {show(value)}" for name, value in level.numbers.items())
    return f"warning: {level.what} ({numbers}): {level.remedy}"


def show(value: Number) -> str:
    """A number in few digits; a text as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
