"""A run's record as a forecast sees it: policy entropy at every step, and scores, each with the entropy behind it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from rekindle.errors import InputError
from rekindle.train.law import Array

MIN_EVALS = 5
UNKNOWN = (
    "no run.toml beside the events: whether the run intervenes in entropy is unknown, and the law holds only for runs "
    "without"
)
REGULATED_RUN = "the law holds only for runs without entropy intervention, and this one has"
REGULATED = re.compile(r"entropy|bonus|kl|cov|novel|balanced|modulation", re.IGNORECASE)
"""Parts whose names hold one of these act on entropy."""
SLOTS = re.compile(r"(^|\.)(terms|keep|modulate|objective|prepare|shape|advantage|source|after)(\.\d+)?$")
WIDER = 0.01
"""By how much the upper clip must be wider than the lower one to count."""
CLIP = re.compile(r"(^|\.)objective\.high$")


@dataclass(frozen=True)
class Series:
    """A run as the fit sees it: `entropy` at every `step`; scores at steps of their own with the entropy there.

    score_name: what the score is. notes: sentences for the user.
    """

    step: Array
    entropy: Array
    score_step: Float[np.ndarray, " M"]
    score_entropy: Float[np.ndarray, " M"]
    score: Float[np.ndarray, " M"]
    score_name: str
    notes: tuple[str, ...] = ()

    def between(self, low: float, high: float) -> Series:
        """The part with low < step <= high."""
        rows = (self.step > low) & (self.step <= high)
        scored = (self.score_step > low) & (self.score_step <= high)
        pairs = (self.score_step[scored], self.score_entropy[scored], self.score[scored])
        return Series(self.step[rows], self.entropy[rows], *pairs, self.score_name, self.notes)


def series(
    records: Sequence[Mapping[str, Any]], options: Mapping[str, Any], share: float = 1.0
) -> tuple[Series, float]:
    """(a run's entropies and scores, the last step of its first `share`).

    The score is pass@1 of the evaluations where five or more lie in that share, else the training share. An evaluation
    at step t saw the weights that sampled step t + 1: it is paired with that step's entropy (the last one with the last
    step's). options: flat options of the run's record, {} where unknown. InputError where a metric is missing.
    """
    steps = [r for r in records if r["kind"] == "step"]
    if not steps:
        raise InputError("the record has no steps yet: let the run take some")
    entropy = {int(r["step"]): float(r["entropy"]) for r in _with(steps, "entropy")}
    first, last = min(entropy), max(entropy)
    end = last if share == 1 else first - 1 + share * (last - first + 1)
    evals = [r for r in records if r["kind"] == "eval" and _number(r, "pass@1")]
    if sum(r["step"] <= end for r in evals) >= MIN_EVALS:
        points = [(r["step"], entropy.get(min(r["step"] + 1, last)), r["pass@1"]) for r in evals]
        name = "evaluation pass@1"
    else:
        metric, name = training_score(steps, options)
        points = [(r["step"], entropy.get(r["step"]), r[metric]) for r in _with(steps, metric)]
    paired = np.array([p for p in points if p[1] is not None], dtype=float).reshape(-1, 3)
    step, value = np.array(list(entropy), dtype=float), np.array(list(entropy.values()))
    notes = interventions(options) if options else (UNKNOWN,)
    return Series(step, value, paired[:, 0], paired[:, 1], paired[:, 2], name, tuple(notes)), float(end)


def training_score(steps: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> tuple[str, str]:
    """(metric, what to call it) of the training score: of a label-free run the truth meter, else its own label's."""
    free = label_free(options)
    if not (any("vote/majority_share" in r for r in steps) if free is None else free):
        return "success", "training success"
    if all(_number(r, "truth/pass@1") for r in steps):
        return "truth/pass@1", "training success by the truth meter (the run is label-free)"
    if any("vote/majority_share" in r for r in steps):
        return "success", "training success by the vote, not by the truth (the run is label-free)"
    return "success", "training success by the run's own label, not by the truth (the run is label-free)"


def label_free(options: Mapping[str, Any]) -> bool | None:
    """Whether a run's successes are not by the truth; None where its options are unknown."""
    labels = {value for path, value in options.items() if path == "collect.label" or path.endswith(".collect.label")}
    return labels != {"Verified"} if labels else None


def _with(steps: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """The steps that have the number `name`; InputError where none has."""
    found = [r for r in steps if _number(r, name)]
    if not found:
        raise InputError(f"no step of the record has '{name}': a forecast needs it; give the events of a training run")
    return found


def _number(record: Mapping[str, Any], name: str) -> bool:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return bool(abs(value) <= sys.float_info.max)  # compared, not converted: a whole number may be too large


def interventions(options: Mapping[str, Any]) -> list[str]:
    """One sentence where the record acts on entropy: terms and masks on entropy or KL, a wider upper clip, novelty."""
    found = [
        f"{path} = {value}"
        for path, value in options.items()
        if isinstance(value, str)
        and SLOTS.search(path)
        and REGULATED.search(value)
        and options.get(f"{path}.coef") != 0
    ]
    for path, high in options.items():
        low = options.get(f"{path.removesuffix('high')}low") if CLIP.search(path) else None
        if isinstance(low, int | float) and isinstance(high, int | float) and high - 1 > 1 - low + WIDER:
            found.append(f"{path} = {high:g} (wider than {path.removesuffix('high')}low = {low:g})")
    return [f"{REGULATED_RUN} {', '.join(found)}"] if found else []
