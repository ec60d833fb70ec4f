"""The verdict: what improved, what was lost, whether it is collapsing, why, and what to try, in one paragraph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rekindle.report.page.panels import first_and_last, groups_of
from rekindle.report.page.passk import NAMES, beyond, changes, interval, rates, split_counts
from rekindle.report.recording import Recording
from rekindle.report.series import label_free
from rekindle.train.collapse import VERDICT, Sight, look, sentences
from rekindle.train.counts import Counts
from rekindle.train.sections_watch import Watch
from rekindle.train.traces import fresh, remember, seen

GOOD, WATCH, COLLAPSING = "sound", "watch", "collapsing"
BLIND = "No sign of a collapse in what was recorded, which has no entropy."
LOST_ENTROPY = 0.5
"""Share of the start's entropy below which its loss is told as one."""


@dataclass
class Verdict:
    """One group of runs. state: of its worst run. better, worse, why, attempt: sentences, most telling first."""

    group: str
    state: str = GOOD
    better: list[str] = field(default_factory=list)
    worse: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    entropy: str = ""
    why: list[str] = field(default_factory=list)
    attempt: list[str] = field(default_factory=list)

    def paragraph(self) -> str:
        """The verdict as text."""
        told = {
            GOOD: "No sign of a collapse." if self.entropy else BLIND,
            WATCH: "Not collapsing, but there are signs.",
            COLLAPSING: "It is collapsing.",
        }[self.state]
        parts = [
            listed("Improved", self.better) or "Nothing measurably improved.",
            listed("Lost", self.worse) or "Nothing measurable was lost.",
            listed("No measurable change", self.same),
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
    if not (found.better or found.worse or found.same):
        _training(found, runs)
    _entropy(found, runs)
    for split in NAMES:
        _coverage(found, runs, split)
    _watch(found, runs)
    return found


def _scores(found: Verdict, runs: Sequence[Recording], split: str) -> None:
    """pass@1 and pass@k against the base's, with the interval of the difference over prompts."""
    pairs = [(b, n) for b, n in (split_counts(run, split) for run in runs) if b is not None and n is not None]
    if not pairs:
        return
    samples = min(min(b.samples, n.samples) for b, n in pairs)
    for k in sorted({1, samples}):
        before, after, (low, high) = paired(pairs, k)
        where = f"{NAMES[split]} pass@{k} {before:.3f} → {after:.3f} ({low:+.3f} to {high:+.3f})"
        (found.better if low > 0 else found.worse if high < 0 else found.same).append(where)


def paired(pairs: Sequence[tuple[Counts, Counts]], k: int) -> tuple[float, float, tuple[float, float]]:
    """pass@k of the base and of now over the same prompts, mean over runs, and the difference's interval."""
    common = sorted(set.intersection(*(b.right.keys() & n.right.keys() for b, n in pairs)))
    tables = [[rates(replace(c, right={p: c.right[p] for p in common}), [k]) for c in pair] for pair in pairs]
    before, after = (np.mean([table[i] for table in tables], axis=0) for i in (0, 1))
    low, high = interval(after - before) if common else (np.array([np.nan]), np.array([np.nan]))
    return float(before.mean()), float(after.mean()), (float(low[0]), float(high[0]))


def _training(found: Verdict, runs: Sequence[Recording]) -> None:
    """Where nothing was evaluated: the training score, a noisier one."""
    for run in runs[:1]:
        free = label_free(run.options) or any("vote/majority_share" in step for step in run.steps)
        name = next((n for n in ("truth/pass@1", "success", "score") if run.series(n)), None)
        if name is None:
            continue
        points = run.series(name)
        start, end = first_and_last(points)
        noise = 2 * float(np.std([y for _, y in points])) / max(1.0, len(points) * 0.1) ** 0.5
        by = " by the vote, not by the truth" if free and name != "truth/pass@1" else ""
        told = f"training {name}{by} {start:.3f} → {end:.3f} (first and last tenth of the steps)"
        (found.same if abs(end - start) <= noise else found.better if end > start else found.worse).append(told)


def _entropy(found: Verdict, runs: Sequence[Recording]) -> None:
    ends = [first_and_last(run.series("entropy")) for run in runs if len(run.series("entropy")) > 1]
    if not ends:
        return
    start, end = (float(np.mean([pair[i] for pair in ends])) for i in (0, 1))
    if start > 0:
        found.entropy = f"{start:.3f} → {end:.3f} nats a token ({end / start - 1:+.0%})"
        if end < LOST_ENTROPY * start:
            found.worse.append(f"{1 - end / start:.0%} of the entropy")


def _coverage(found: Verdict, runs: Sequence[Recording], split: str) -> None:
    own = [changes(b, n) for b, n in (split_counts(run, split) for run in runs) if b is not None and n is not None]
    sides = (
        (found.worse, "lost", [(len(c.lost), c.chance_lost) for c in own]),
        (found.better, "newly solved", [(len(c.gained), c.chance_gained) for c in own]),
    )
    for place, told, counts in sides:
        total, chance = sum(count for count, _ in counts), sum((chance for _, chance in counts), 0.0)
        if own and beyond(total, chance):
            each = f"{total / len(own):.3g} prompts{' a run' if len(own) > 1 else ''}"
            place.append(f"{each} {NAMES[split]} {told} (chance alone: {chance / len(own):.1f})")


def _watch(found: Verdict, runs: Sequence[Recording]) -> None:
    """The collapse watch over every run, whoever trained it."""
    for run in runs:
        sight, texts = overseen(run)
        if sight is None or not sight.open:
            continue
        found.state = COLLAPSING if COLLAPSING in (state(sight), found.state) else WATCH
        for name, text in texts.items():
            if name != VERDICT:
                what, _, remedy = text.partition(": ")
                told = what if len(runs) == 1 else f"{what} ({run.name})"
                found.why.append(told)
                tried = remedy.partition("; see ")[0]
                found.attempt += [tried] if tried and tried not in found.attempt else []


def state(sight: Sight) -> str:
    """The state of a run at its end."""
    return COLLAPSING if sight.collapsing else WATCH


def overseen(run: Recording) -> tuple[Sight | None, dict[str, str]]:
    """What the watch sees at the end of the run, and its sentences; None where there are no steps."""
    watch, memory, sight = Watch(), fresh(), None
    free = bool(label_free(run.options)) or any("vote/majority_share" in step for step in run.steps)
    evals = {int(e["step"]): e for e in run.of_kind("eval")}
    for step in run.steps:
        remember(memory, {"kind": "step", **step}, watch)
        if int(step["step"]) in evals:
            remember(memory, evals[int(step["step"])], watch)
        sight = look(memory, free, watch)
    if sight is None:
        return None, {}
    everything = Sight(sight.open, sight.open, sight.collapsing, sight.collapsing)
    # What another trainer ran is a kind of GRPO for the remedies, which name options of this package.
    options = {"method": "grpo", **run.options}
    return sight, sentences(everything, seen(memory, free), watch, options)
