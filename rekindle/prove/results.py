"""Stored results of `rekindle prove`: a number a seed, and the verdict that the stated rule takes from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rekindle.core.method import Effect
from rekindle.train.verdict import Paired, paired

STORE = Path(__file__).parents[1] / "assets" / "effects.json"
DIGITS = 4
"""Significant decimals that are stored: the verdict is taken from the stored numbers."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One experiment: a claim of a card, and a number a seed of the method (`ours`) and of its opponent (`theirs`).

    against: the opponent, "" for the untrained start. seconds: of a processor, for all its runs.
    """

    claim: str
    bed: str
    metric: str
    more: bool
    against: str
    options: Mapping[str, Any] = field(default_factory=dict)
    against_options: Mapping[str, Any] = field(default_factory=dict)
    bed_options: Mapping[str, Any] = field(default_factory=dict)
    against_bed_options: Mapping[str, Any] | None = None
    within: float | None = None
    seeds: Sequence[int]
    ours: Sequence[float]
    theirs: Sequence[float]
    verdict: str = ""
    seconds: float = 0.0

    def judged(self) -> Row:
        """The row with the verdict that its numbers give."""
        return replace(self, verdict=judge(self).verdict)


def judge(row: Row) -> Paired:
    """The rule on ours - theirs: `rekindle.train.verdict.paired`, with the sign of the claim.

    A claim of equality is *shown* where |mean difference| + t bound <= within, else *not shown*.
    """
    found = paired(row.ours, row.theirs)
    if row.within is not None:
        verdict = "shown" if abs(found.mean) + found.bound <= row.within else "not shown"
    else:
        verdict = found.verdict if row.more else paired(row.theirs, row.ours).verdict
    return Paired(found.mean, found.deviation, found.bound, verdict)


def experiment(effect: Effect, parent: str | None) -> dict[str, Any]:
    """The fields of a row that say what was run; `against` is the parent where the effect names none."""
    said = {name: plain(value) for name, value in vars(effect).items()}
    return said | {"against": parent if effect.against is None else effect.against}


def plain(value: Any) -> Any:
    """A value as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(value if not isinstance(value, Mapping) else dict(value)))


def load(path: Path = STORE) -> dict[str, list[Row]]:
    """Method -> its stored rows, in the order of its card."""
    if not path.exists():
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {method: [Row(**row) for row in rows] for method, rows in stored.items()}


def store(method: str, rows: Sequence[Row], path: Path = STORE) -> None:
    """Put the rows of one method in the place of its old ones; no rows: the method is taken out."""
    stored = load(path)
    stored.pop(method, None)
    if rows:
        stored[method] = list(rows)
    text = {name: [asdict(row) for row in stored[name]] for name in sorted(stored)}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(text, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def effect_of(slug: str, path: Path = STORE) -> str:
    """What the stored results of a method say in a word or two: "shown", "shown (2 of 3)", "not shown", "-"."""
    verdicts = [row.verdict for row in load(path).get(slug, [])]
    shown = verdicts.count("shown")
    if not verdicts:
        return "-"
    if 0 < shown < len(verdicts):
        return f"shown ({shown} of {len(verdicts)})"
    return verdicts[0] if len(set(verdicts)) == 1 else "not shown"
