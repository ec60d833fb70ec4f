"""Where nothing was evaluated: what the training score did, a noisier account, and by whose label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rekindle.report.page.panels import first_and_last
from rekindle.report.recording import Recording
from rekindle.report.series import label_free

FEWEST = 20
"""Prompts, or steps of training, below which a change is not called one."""
TRUTH = "truth/pass@1"
SAID = {TRUTH: "training success by the truth meter", "success": "training success", "score": "training score"}


@dataclass(frozen=True)
class Trained:
    """A change of the training score. told: in words. side: 1 up, -1 down, 0 within noise or of too few steps.

    label: whose label it is by, where that is not the truth, and then nobody can say whether it is a gain.
    """

    told: str
    side: int
    label: str = ""


def trained(runs: Sequence[Recording]) -> Trained | None:
    """The change from the first tenth of the steps to the last, mean over the runs; None where no score is in all."""
    label = label_of_own(runs)
    # A reward function gives numbers of any size: success, by a threshold in them, may stand still while they move.
    rewarded = any(run.origin != "rekindle" or run.options.get("reward") for run in runs)
    names = (TRUTH, "score", "success") if rewarded and not label else (TRUTH, "success", "score")
    name = next((n for n in names if all(run.series(n) for run in runs)), None)
    if name is None:
        return None
    own = [run.series(name) for run in runs]
    start, end = np.mean([first_and_last(points) for points in own], axis=0)
    told = f"{SAID[name]} {start:.3f} → {end:.3f} (first and last tenth of {length_of(own)})"
    by = "" if name == TRUTH else label
    if min(map(len, own)) < FEWEST:
        return Trained(told if by else f"{told}, too few steps to tell", 0, by)
    noise = 2 * math.hypot(*(uncertain(points) for points in own)) / len(own)
    return Trained(told, 0 if abs(end - start) <= noise else 1 if end > start else -1, by)


def length_of(curves: Sequence[Sequence[tuple[int, float]]]) -> str:
    """How many steps the runs have, where they have not the same."""
    counts = [len(points) for points in curves]
    return "the steps" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)} steps"


def label_of_own(runs: Sequence[Recording]) -> str:
    """Whose label the successes are by, where that is not the truth: "the vote", "its own label"; else ""."""
    voted = [any("vote/majority_share" in step for step in run.steps) for run in runs]
    free = [label_free(run.options) for run in runs]
    if not any(vote if own is None else own for vote, own in zip(voted, free, strict=True)):
        return ""
    return "the vote" if any(voted) else "its own label"


def uncertain(points: Sequence[tuple[int, float]]) -> float:
    """Standard error of the last tenth's mean minus the first's, from what a straight line leaves of the curve."""
    steps, values = np.array(points, dtype=float).T
    left = values - np.polyval(np.polyfit(steps, values, 1), steps)
    return float(left.std(ddof=2) * math.sqrt(2 / max(1, round(len(values) * 0.1))))
