"""The signs of a collapse: each a pure function of what the watch remembers, with a level that fires at 1 and above.

Levels are continuous, so that an episode can end well below where it began: a number that moves about its threshold is
told of once. The alarm levels without a source are ours, chosen on runs of the package's own tasks (docs/collapse.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from rekindle.train.sections_watch import Watch
from rekindle.train.traces import MAJ, PASS, Level, Row, Trace, mean

TINY = 1e-9
CLEAR, WAITS = 0.8, 0.9
"""An episode ends below CLEAR. WAITS neither begins nor ends one: a second condition of a signal does not hold."""


@dataclass(frozen=True)
class Finding:
    """What a signal sees. level: 1 and above fires. metric: what moved, from `before` (at step `since`) to `now`."""

    level: float
    metric: str
    before: float
    now: float
    since: int
    threshold: float


Signal = Callable[[Trace, Watch], Finding | None]


def found(level: float, metric: str, before: Level, now: float, threshold: float) -> Finding:
    """A finding whose `before` is that level."""
    return Finding(level, metric, before.value, now, before.step, threshold)


def entropy(trace: Trace, watch: Watch) -> Finding | None:
    """The share of the start's entropy that is left is low."""
    return left(trace, watch, "entropy", watch.entropy)


def spent(trace: Trace, watch: Watch) -> Finding | None:
    """Next to nothing of the start's entropy is left."""
    return left(trace, watch, "entropy", watch.spent)


def reward(trace: Trace, watch: Watch) -> Finding | None:
    """The score fell far below the start's, where it is by the truth.

    A share of a start at 0 or below says nothing: there the fall is a share of the way to the start's lowest scores.
    """
    start, lowest, now = trace.start("score"), trace.start("score/lowest"), trace.now("score", watch)
    if trace.free or start is None or start.value >= TINY:
        return None if trace.free else left(trace, watch, "score", watch.reward)
    if lowest is None or now is None or start.value - lowest.value < TINY:
        return None
    fallen = (start.value - now.value) / (start.value - lowest.value)
    return found(fallen / (1 - watch.reward), "score", start, now.value, watch.reward)


def left(trace: Trace, watch: Watch, name: str, threshold: float) -> Finding | None:
    """The share of the start's value that is left."""
    start, now = trace.start(name), trace.now(name, watch)
    if start is None or now is None or start.value < TINY:
        return None
    return found((1 - now.value / start.value) / (1 - threshold), name, start, now.value, threshold)


def floor(trace: Trace, watch: Watch) -> Finding | None:
    """Entropy is low, whatever it was; not of a run that began so."""
    start, now = trace.start("entropy"), trace.now("entropy", watch)
    if start is None or now is None or start.value <= watch.floor or not watch.floor:
        return None
    return found(2 - now.value / watch.floor, "entropy", start, now.value, watch.floor)


def slope(trace: Trace, watch: Watch) -> Finding | None:
    """Entropy fell to a share of what it was within the last steps."""
    high, now = trace.highest("entropy", watch), trace.now("entropy", watch)
    if high is None or now is None or high.value < TINY or now.step <= high.step:
        return None
    return found((1 - now.value / high.value) / (1 - watch.slope), "entropy", high, now.value, watch.slope)


def dead(trace: Trace, watch: Watch) -> Finding | None:
    """Most groups are without a signal. Where they were so from the start, nothing has changed."""
    return risen(trace, watch, "groups/dead", watch.dead, watch.dead / 4)


def truncated(trace: Trace, watch: Watch) -> Finding | None:
    """More responses are cut off than at the start."""
    return risen(trace, watch, "truncated", watch.truncated, watch.truncated)


def repetition(trace: Trace, watch: Watch) -> Finding | None:
    """Responses repeat themselves more than at the start."""
    return risen(trace, watch, "repetition", watch.repetition, watch.repetition)


def risen(trace: Trace, watch: Watch, name: str, level: float, rise: float) -> Finding | None:
    """A share is at least at `level`, and by at least `rise` higher than at the start."""
    start, now = trace.start(name), trace.now(name, watch)
    if start is None or now is None:
        return None
    return found(min(now.value / level, (now.value - start.value) / rise), name, start, now.value, level)


def lock_in(trace: Trace, watch: Watch) -> Finding | None:
    """Votes agree ever more while the answers that are still given grow few; of label-free runs."""
    start, now = trace.start("answers/distinct"), trace.now("answers/distinct", watch)
    majority, before = trace.now("answers/majority", watch), trace.start("answers/majority")
    if not trace.free or start is None or now is None or majority is None or before is None or start.value < TINY:
        return None
    fewer = (1 - now.value / start.value) / (1 - watch.distinct)
    more = majority.value / watch.majority if majority.value > before.value else 0.0
    return found(min(fewer, more), "answers/majority", before, majority.value, watch.majority)


def length(trace: Trace, watch: Watch) -> Finding | None:
    """Responses are longer or shorter than at the start by a factor."""
    start, now = trace.start("length"), trace.now("length", watch)
    if start is None or now is None or start.value < TINY:
        return None
    factor = now.value / start.value
    drift = max(factor, 1 / max(factor, TINY))
    return found(drift / watch.length, "length", start, now.value, watch.length)


def update_kl(trace: Trace, watch: Watch) -> Finding | None:
    """An update moves the policy far: k3 between the policies before and after."""
    return high(trace, watch, "update_kl_k3", watch.update_kl)


def clip(trace: Trace, watch: Watch) -> Finding | None:
    """Many tokens are clipped, on either side."""
    rows = [
        {**row, "clip": row["clip_high"] + row["clip_low"]} for row in trace.last if {"clip_high", "clip_low"} <= {*row}
    ]
    return high(replace(trace, last=rows), watch, "clip", watch.clip)


def high(trace: Trace, watch: Watch, name: str, threshold: float) -> Finding | None:
    """The mean of the last steps is at or above a threshold; the start is the oldest step that is remembered."""
    now, before = mean(trace.last[-watch.smooth :], name), mean(trace.last[:1], name)
    if now is None or before is None or now.step <= before.step:
        return None
    return found(now.value / threshold, name, before, now.value, threshold)


def hacking(trace: Trace, watch: Watch) -> Finding | None:
    """The reward that is trained on rose while the held-out vote fell from its best (pass@1 where none is taken)."""
    scored = replace(trace, evals=[row for row in trace.evals if "score" in row])
    fallen = lost(scored, scored.held_out(MAJ) or f"{PASS}1", watch)
    if fallen is None:
        return None
    return fallen.only_if(fallen.rose("score"))


def diversity(trace: Trace, watch: Watch) -> Finding | None:
    """Held-out pass@k fell from its best while pass@1 rose: fewer problems are in reach, more often solved."""
    fallen = lost(trace, trace.held_out(PASS), watch)
    return None if fallen is None else fallen.only_if(fallen.rose(f"{PASS}1"))


def coverage(trace: Trace, watch: Watch) -> Finding | None:
    """Held-out pass@k fell from its best, and pass@1 did not rise."""
    fallen = lost(trace, trace.held_out(PASS), watch)
    return None if fallen is None else fallen.only_if(not fallen.rose(f"{PASS}1"))


@dataclass(frozen=True)
class Lost:
    """What a held-out metric lost since its best evaluation."""

    finding: Finding
    best: Row
    last: Row

    def rose(self, name: str) -> bool:
        """Whether another metric is higher than it was at that best evaluation."""
        return self.last[name] > self.best[name]

    def only_if(self, holds: bool) -> Finding:
        """The finding, that waits unless a second condition holds."""
        return self.finding if holds else replace(self.finding, level=min(self.finding.level, WAITS))


def lost(trace: Trace, name: str | None, watch: Watch) -> Lost | None:
    """The fall of a held-out metric from its best, None before there are two evaluations."""
    rows = [row for row in trace.evals if name is not None and name in row]
    if name is None or len(rows) < 2:
        return None
    best, last = max(rows, key=lambda row: row[name]), rows[-1]
    if best[name] < TINY:
        return None
    level = Level(float(best[name]), int(best["step"]))
    drop = 1 - last[name] / best[name]
    return Lost(found(drop / watch.drop, name, level, float(last[name]), watch.drop), best, last)


SIGNALS: Mapping[str, Signal] = MappingProxyType(
    {
        "entropy": entropy,
        "spent": spent,
        "floor": floor,
        "slope": slope,
        "dead": dead,
        "lock_in": lock_in,
        "reward": reward,
        "repetition": repetition,
        "length": length,
        "truncated": truncated,
        "update_kl": update_kl,
        "clip": clip,
        "hacking": hacking,
        "diversity": diversity,
        "coverage": coverage,
    }
)
