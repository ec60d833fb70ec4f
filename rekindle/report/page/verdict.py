"""The verdict: what improved, what was lost, whether it is collapsing, why, and what to try, in one paragraph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from rekindle.report.page.coverage import beyond, changes, pooled
from rekindle.report.page.panels import first_and_last, groups_of
from rekindle.report.page.passk import DRAWS, LEVEL, NAMES, SEED, only, rates, split_counts
from rekindle.report.recording import Recording
from rekindle.report.series import label_free
from rekindle.train.collapse import VERDICT, Sight, look, sentences
from rekindle.train.counts import Counts
from rekindle.train.sections_watch import Watch
from rekindle.train.traces import fresh, remember, seen

GOOD, WATCH, COLLAPSING = "sound", "watch", "collapsing"
BLIND = "No sign of a collapse in what was recorded, which has no entropy."
UNMEASURED = "Whether it improved was not measured."
FEWEST = 20
"""Prompts, or steps of training, below which a change is not called one."""
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
        measured = self.better or self.worse or self.same
        parts = [
            listed("Improved", self.better) or ("Nothing measurably improved." if measured else UNMEASURED),
            listed("Lost", self.worse) or ("Nothing measurable was lost." if measured else ""),
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
    """pass@1 and pass@k against the base's, with the interval of the difference over prompts and runs."""
    pairs = [(b, n) for b, n in (split_counts(run, split) for run in runs) if b is not None and n is not None]
    common = set.intersection(*(b.right.keys() & n.right.keys() for b, n in pairs)) if pairs else set()
    if not common:
        return
    samples = min(min(b.samples, n.samples) for b, n in pairs)
    for k in sorted({1, samples}):
        before, after, (low, high) = paired(pairs, k)
        where = f"{NAMES[split]} pass@{k} {before:.3f} → {after:.3f}"
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


def in_order(pair: tuple[Counts, Counts]) -> list[Counts]:
    """Both counts with their prompts in one order."""
    return [replace(c, right=dict(sorted(c.right.items()))) for c in pair]


def _training(found: Verdict, runs: Sequence[Recording]) -> None:
    """Where nothing was evaluated: the training score, a noisier one."""
    names = ("truth/pass@1", "success", "score")
    name = next((n for n in names if all(run.series(n) for run in runs)), None)
    if name is None:
        return
    own = [run.series(name) for run in runs]
    start, end = np.mean([first_and_last(points) for points in own], axis=0)
    votes = any("vote/majority_share" in step for run in runs for step in run.steps)
    by = " by the vote, not by the truth" if votes and name != "truth/pass@1" else ""
    told = f"training {name}{by} {start:.3f} → {end:.3f} (first and last tenth of the steps)"
    if min(map(len, own)) < FEWEST:
        found.same.append(f"{told}, too few steps to tell")
        return
    noise = 2 * math.hypot(*(uncertain(points) for points in own)) / len(own)
    (found.same if abs(end - start) <= noise else found.better if end > start else found.worse).append(told)


def uncertain(points: Sequence[tuple[int, float]]) -> float:
    """Standard error of the last tenth's mean minus the first's, from what a straight line leaves of the curve."""
    steps, values = np.array(points, dtype=float).T
    left = values - np.polyval(np.polyfit(steps, values, 1), steps)
    return float(left.std(ddof=2) * math.sqrt(2 / max(1, round(len(values) * 0.1))))


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
    """Prompts that no run solves any more, or that the runs solve and the base did not: all their samples together."""
    pairs = [(b, n) for b, n in (split_counts(run, split) for run in runs) if b is not None and n is not None]
    if not pairs or any(b.right != pairs[0][0].right for b, _ in pairs):
        return
    own = changes(*pooled(pairs))
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
    watch, memory, sight = watch_of(run.options), fresh(), None
    if not watch.every:
        return None, {}
    votes = any("vote/majority_share" in step for step in run.steps)
    free = votes or (bool(label_free(run.options)) and not run.options.get("reward"))
    evals = {int(e["step"]): e for e in run.of_kind("eval")}
    for step in run.steps:
        remember(memory, {"kind": "step", **step}, watch)
        if int(step["step"]) in evals:
            remember(memory, evals[int(step["step"])], watch)
        if int(step["step"]) % watch.every == 0:
            sight = look(memory, free, watch)
    if sight is None:
        return None, {}
    everything = Sight(sight.open, sight.open, sight.collapsing, sight.collapsing)
    # What another trainer ran is a kind of GRPO for the remedies, which name options of this package.
    options = {"method": "grpo", **run.options}
    return sight, sentences(everything, seen(memory, free), watch, options)


def watch_of(options: Mapping[str, Any]) -> Watch:
    """The watch as the run has it; with its defaults where another trainer ran."""
    own = {f.name: options[f"watch.{f.name}"] for f in fields(Watch) if f"watch.{f.name}" in options}
    return Watch(**own)
