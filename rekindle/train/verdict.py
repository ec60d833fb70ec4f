"""Whether paired seeds show a difference: the rule is stated here, before any run.

A difference is *shown* if all seeds have its sign and its mean exceeds the two-sided 95 % t bound of the paired
differences; *opposite* if the same holds the other way round; else *not shown*.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % quantiles of Student's t for 1 to 9 degrees of freedom."""


@dataclass(frozen=True)
class Paired:
    """Paired differences: their mean, standard deviation, the t bound, and what the rule says."""

    mean: float
    deviation: float
    bound: float
    verdict: str


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
    """The rule on ours - theirs, seed by seed; ValueError for fewer than 2 or more than 10 pairs.

    >>> paired([0.30, 0.32, 0.31], [0.20, 0.21, 0.22]).verdict
    'shown'
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    if not 2 <= len(differences) <= len(T_95) + 1:
        raise ValueError(f"a paired verdict takes 2 to {len(T_95) + 1} seeds, not {len(differences)}")
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    bound = T_95[len(differences) - 2] * deviation / math.sqrt(len(differences))
    if all(d > 0 for d in differences) and mean > bound:
        return Paired(mean, deviation, bound, "shown")
    if all(d < 0 for d in differences) and -mean > bound:
        return Paired(mean, deviation, bound, "opposite")
    return Paired(mean, deviation, bound, "not shown")
