"""Coverage: which prompts training solved that the base could not, which it lost, and how many are chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rekindle.report.page.panels import Panel, Table
from rekindle.report.page.passk import NAMES, RECORD, split_counts
from rekindle.report.page.sources import by_source
from rekindle.report.recording import Recording
from rekindle.train.counts import Counts

CHANCE = 0.05
"""Losses are told as such where chance alone gives as many with less than this probability."""
SHOWN = 12


@dataclass(frozen=True)
class Changes:
    """Prompts by what became of them, and each prompt's chance to be gained or lost if nothing had changed."""

    gained: list[str]
    lost: list[str]
    kept: list[str]
    never: list[str]
    chance_gained: list[float]
    chance_lost: list[float]


def changes(base: Counts, now: Counts) -> Changes:
    """Of the prompts that were measured both times."""
    both = [p for p in now.right if p in base.right]
    here, there = ([c.right[p] for p in both] for c in (base, now))
    chance = [chances(b + n, base.samples, now.samples) for b, n in zip(here, there, strict=True)]
    pairs = list(zip(both, here, there, strict=True))
    return Changes(
        gained=[p for p, b, n in pairs if not b and n],
        lost=[p for p, b, n in pairs if b and not n],
        kept=[p for p, b, n in pairs if b and n],
        never=[p for p, b, n in pairs if not b and not n],
        chance_gained=[gained for _, gained in chance],
        chance_lost=[lost for lost, _ in chance],
    )


def chances(right: int, before: int, after: int) -> tuple[float, float]:
    """Of a prompt with so many right in both samplings: P(all before, so that it is lost), P(all after: gained).

    Exact where nothing has changed, whatever the prompt's rate: the right ones then lie anywhere among all samples.

    >>> chances(1, 4, 4), chances(2, 4, 4)[0] == (4 / 8) * (3 / 7)
    ((0.5, 0.5), True)
    """
    if not right:
        return 0.0, 0.0
    whole = math.comb(before + after, right)
    return math.comb(before, right) / whole, math.comb(after, right) / whole


def beyond(count: int, chance: Sequence[float]) -> bool:
    """Whether so many prompts are more than chance gives: P(at least `count`) of independent prompts below CHANCE."""
    mass = np.zeros(len(chance) + 2)
    mass[0] = 1.0
    for p in chance:
        mass[1:] = mass[1:] * (1 - p) + mass[:-1] * p
        mass[0] *= 1 - p
    return count > 0 and float(mass[count:].sum()) < CHANCE


def pooled(pairs: Sequence[tuple[Counts, Counts]]) -> tuple[Counts, Counts]:
    """Runs that began at one base: its counts, and those of all runs' samples of a prompt together."""
    base = pairs[0][0]
    common = set.intersection(*(b.right.keys() & n.right.keys() for b, n in pairs))
    right = {p: sum(n.right[p] for _, n in pairs) for p in sorted(common)}
    return base, Counts(pairs[0][1].step, base.split, sum(n.samples for _, n in pairs), right)


def unpaired(runs: Sequence[Recording], split: str) -> tuple[str, str] | None:
    """(why the evaluations of a split tell of no change, what to do); None where they do, or there are none."""
    measured = [c for run in runs for c in run.counts if c.split == split]
    pairs = [(b, n) for b, n in (split_counts(run, split) for run in runs) if b is not None and n is not None]
    if not measured or (pairs and set.intersection(*(b.right.keys() & n.right.keys() for b, n in pairs))):
        return None
    if all(c.step == 0 for c in measured):
        return f"Only the start model was evaluated ({NAMES[split]})", "the run's own evaluation is still to come"
    if all(c.step > 0 for c in measured):
        return (
            f"The start model was not evaluated ({NAMES[split]})",
            f"`rekindle eval MODEL --split {split} --keep RUN` adds it, MODEL being what the run began with",
        )
    return (
        f"The evaluations ({NAMES[split]}) share no prompt",
        "measure start model and run on the same ones, as `rekindle compare` does",
    )


def coverage_panel(runs: Sequence[Recording]) -> Panel:
    """Which prompts training solved that the base could not, and which it lost."""
    tables, missing = [], []
    for split in NAMES:
        pairs = {run: split_counts(run, split) for run in runs}
        rows = [_row(run, base, now) for run, (base, now) in pairs.items() if base is not None and now is not None]
        if rows:
            head = ("run", "prompts", "solved by both", "gained", "by chance", "lost", "by chance", "by neither")
            tables.append(Table(title=f"Prompts, {NAMES[split]}", head=head, rows=rows))
        elif why := unpaired(runs, split):
            missing.append(f"{why[0]}: {why[1]}.")
        for place, own in by_source(runs, split).items():
            found = {run.name: changes(b, n) for run in own for b, n in [pairs[run]] if b and n}
            tables += _named(NAMES[split] + place, found)
    if not tables and not missing:
        missing.append("Coverage needs an evaluation of the start model and one of the run: " + RECORD)
    lead = (
        "Solved: right in at least one sample. Lost: the base solved it, and now no sample does. By chance: how many "
        "would be gained or lost if nothing had changed, for a prompt that is seldom right is missed now and then."
    )
    return Panel(id="coverage", title="What was gained, what was lost", lead=lead, tables=tables, missing=missing)


def _row(run: Recording, base: Counts, now: Counts) -> list[str | int]:
    found = changes(base, now)
    kept, gained, lost, never = (len(p) for p in (found.kept, found.gained, found.lost, found.never))
    chance = [f"{sum(values):.1f}" for values in (found.chance_gained, found.chance_lost)]
    return [run.name, kept + gained + lost + never, kept, gained, chance[0], lost, chance[1], never]


def _named(where: str, found: Mapping[str, Changes]) -> list[Table]:
    """Which prompts these are, those of most runs first."""
    tables = []
    for what in ("lost", "gained"):
        tally: dict[str, list[str]] = {}
        for run, own in found.items():
            for prompt in vars(own)[what]:
                tally.setdefault(prompt, []).append(run)
        order = sorted(tally, key=lambda p: (-len(tally[p]), p))
        rows = [[prompt, ", ".join(tally[prompt])] for prompt in order[:SHOWN]]
        more = f" ({SHOWN} of {len(order)})" if len(order) > SHOWN else ""
        if rows:
            tables.append(Table(title=f"{what.capitalize()}, {where}{more}", head=("prompt", what + " by"), rows=rows))
    return tables
