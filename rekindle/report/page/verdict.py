"""The verdict: what improved, what was lost, whether it is collapsing, why, and what to try, in one paragraph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rekindle.report.page.coverage import beyond, changes, pooled, unpaired
from rekindle.report.page.overseen import overseen, too_short
from rekindle.report.page.panels import first_and_last, groups_of
from rekindle.report.page.passk import DRAWS, LEVEL, NAMES, SEED, only, rates, split_counts
from rekindle.report.page.training import FEWEST, trained
from rekindle.report.recording import Recording
from rekindle.train.collapse import VERDICT
from rekindle.train.counts import Counts

UNKNOWN, GOOD, WATCH, COLLAPSING = "unknown", "sound", "watch", "collapsing"
EARLY = "Too few steps were recorded to see a collapse."
BLIND = "No sign of a collapse in what was recorded, which has no entropy."
UNMEASURED = "Whether it improved was not measured."
LOST_ENTROPY = 0.5
"""Share of the start's entropy below which its loss is told as one."""


@dataclass
class Verdict:
    """One group of runs. state: of its worst run. better, worse, same, why, attempt: sentences, most telling first.

    measured: whether scores by the truth, or by a reward, were there to be compared. gaps: evaluations that tell of no
    change. own: what the run says of itself.
    """

    group: str
    state: str = GOOD
    measured: bool = False
    better: list[str] = field(default_factory=list)
    worse: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    own: dict[str, str] = field(default_factory=dict)
    entropy: str = ""
    why: list[str] = field(default_factory=list)
    attempt: list[str] = field(default_factory=list)

    def paragraph(self) -> str:
        """The verdict as text."""
        told = {
            UNKNOWN: EARLY,
            GOOD: "No sign of a collapse." if self.entropy else BLIND,
            WATCH: "Not collapsing, but there are signs.",
            COLLAPSING: "It is collapsing.",
        }[self.state]
        parts = [
            listed("Improved", self.better) or ("Nothing measurably improved." if self.measured else UNMEASURED),
            listed("Lost", self.worse) or ("Nothing measurable was lost." if self.measured else ""),
            listed("No measurable change", self.same),
            *(f"{gap}." for gap in self.gaps),
            *(listed(name, [sentence]) for name, sentence in self.own.items()),
            listed("Entropy", [self.entropy] if self.entropy else []),
            told,
            listed("Why", self.why),
            listed("To try", self.attempt),
        ]
        return " ".join(part for part in parts if part)


def listed(name: str, sentences: Sequence[str]) -> str:
    """ "Name: a; b." of what there is."""
    return f"{name}: {'; '.join(sentences)}." if sentences else ""


def verdicts(runs: Sequence[Recording]) -> list[Verdict]:
    """One a group of runs."""
    return [verdict(group, own) for group, own in groups_of(runs).items()]


def verdict(group: str, runs: Sequence[Recording]) -> Verdict:
    """What the runs of a group show together."""
    found = Verdict(group)
    for split in NAMES:
        _scores(found, runs, split)
    found.measured = bool(found.better or found.worse or found.same)
    found.gaps = [why[0] for split in NAMES if (why := unpaired(runs, split))]
    if not found.measured:
        _training(found, runs)
    _entropy(found, runs)
    for split in NAMES:
        _coverage(found, runs, split)
    _watch(found, runs)
    return found


def _scores(found: Verdict, runs: Sequence[Recording], split: str) -> None:
    """pass@1 and pass@k against the base's, with the interval of the difference over prompts and runs."""
    pairs = [(b, n) for b, n in (split_counts(run, split) for run in runs) if b is not None and n is not None]
    common = set.intersection(*(b.right.keys() & n.right.keys() for b, n in pairs)) if pairs else set()
    if not common:
        return
    samples = min(min(b.samples, n.samples) for b, n in pairs)
    for k in sorted({1, samples}):
        before, after, (low, high) = paired(pairs, k)
        where = f"{NAMES[split]} pass@{k}{stages([now for _, now in pairs])} {before:.3f} → {after:.3f}"
        if len(common) < FEWEST:
            found.same.append(f"{where} (of {len(common)} prompts, too few to tell)")
            continue
        where += f" ({low:+.3f} to {high:+.3f})"
        (found.better if low > 0 else found.worse if high < 0 else found.same).append(where)


def paired(pairs: Sequence[tuple[Counts, Counts]], k: int) -> tuple[float, float, tuple[float, float]]:
    """pass@k of the base and of now over the same prompts, mean over runs, and the difference's interval.

    The bootstrap draws prompts and, where there are several runs, runs.
    """
    common = set.intersection(*(b.right.keys() & n.right.keys() for b, n in pairs))
    tables = np.array([[rates(only(c, common), [k])[:, 0] for c in in_order(pair)] for pair in pairs])  # [R 2 P]
    before, after = tables.mean(axis=(0, 2))
    change, made = tables[:, 1] - tables[:, 0], np.random.default_rng(SEED)
    prompts = made.integers(0, change.shape[1], (DRAWS, change.shape[1]))
    drawn = made.integers(0, len(change), (DRAWS, len(change)))
    means = np.array([change[some][:, rows].mean() for some, rows in zip(drawn, prompts, strict=True)])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(before), float(after), (float(low), float(high))


def stages(measured: Sequence[Counts]) -> str:
    """Which steps the runs stand at, where they do not stand at one."""
    steps = [counts.step for counts in measured]
    return "" if min(steps) == max(steps) else f" (steps {min(steps)} to {max(steps)})"


def in_order(pair: tuple[Counts, Counts]) -> list[Counts]:
    """Both counts with their prompts in one order."""
    return [replace(c, right=dict(sorted(c.right.items()))) for c in pair]


def _training(found: Verdict, runs: Sequence[Recording]) -> None:
    """Where nothing was evaluated: the training score. By a label of the run's own it is neither a gain nor a loss."""
    change = trained(runs)
    if change is None:
        return
    found.measured = not change.label
    if change.label:
        found.own = {f"By {change.label}, not by the truth": change.told}
        return
    place = {1: found.better, -1: found.worse, 0: found.same}[change.side]
    place.append(change.told)


def _entropy(found: Verdict, runs: Sequence[Recording]) -> None:
    curves = [run.series("entropy") for run in runs if run.series("entropy")]
    ends = [first_and_last(curve) for curve in curves if len(curve) > 1]
    if not ends:
        found.entropy = f"{np.mean([curve[0][1] for curve in curves]):.3f} nats a token, of one step" if curves else ""
        return
    start, end = (float(np.mean([pair[i] for pair in ends])) for i in (0, 1))
    found.entropy = f"{start:.3f} → {end:.3f} nats a token" + (f" ({end / start - 1:+.0%})" if start > 0 else "")
    if end < LOST_ENTROPY * start:
        found.worse.append(f"{1 - end / start:.0%} of the entropy")


def _coverage(found: Verdict, runs: Sequence[Recording], split: str) -> None:
    """Prompts that no run solves any more, or that the runs solve and the base did not: all their samples together."""
    pairs = [(b, n) for b, n in (split_counts(run, split) for run in runs) if b is not None and n is not None]
    if not pairs or any(b.right != pairs[0][0].right for b, _ in pairs):
        return
    base, now = pooled(pairs)
    if len(now.right) < FEWEST:
        return
    own = changes(base, now)
    sides = (
        (found.worse, "lost", own.lost, own.chance_lost),
        (found.better, "newly solved", own.gained, own.chance_gained),
    )
    for place, told, prompts, chance in sides:
        if beyond(len(prompts), chance):
            by = f" by all {len(pairs)} runs" if told == "lost" and len(pairs) > 1 else ""
            place.append(f"{len(prompts)} prompts {NAMES[split]} {told}{by} (chance alone: {sum(chance):.1f})")


def _watch(found: Verdict, runs: Sequence[Recording]) -> None:
    """The collapse watch over every run, whoever trained it."""
    if all(too_short(run) for run in runs):
        found.state = UNKNOWN
    for run in runs:
        sight, texts = overseen(run)
        if sight is None or not sight.open:
            continue
        found.state = COLLAPSING if sight.collapsing or found.state == COLLAPSING else WATCH
        for name, text in texts.items():
            if name != VERDICT:
                what, _, remedy = text.partition(": ")
                told = what if len(runs) == 1 else f"{what} ({run.name})"
                found.why += [told] if told not in found.why else []  # two signs may have one evidence
                tried = remedy.partition("; see ")[0]
                found.attempt += [tried] if tried and tried not in found.attempt else []
