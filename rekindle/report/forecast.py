"""Where a run is heading: the entropy law fitted to its record so far, and the step at which entropy is spent.

The law R = -a e^H + b (arXiv 2505.22617) is a correlation of runs without entropy intervention: it warns, and never
stops a run. Pure functions over the records of events.jsonl and the options of run.toml.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rekindle.errors import InputError
from rekindle.report.fits import Decay, bootstrap, fit_decay, interval, rmse
from rekindle.report.series import MIN_EVALS, Series, series
from rekindle.train.law import Array, Law, fit_law

SPENT = 0.05
"""Nats a token below which entropy counts as spent."""
LEVEL = 0.9
MIN_STEPS = 8
DRAWS, SEED = 500, 0
WINDOWS = 5
"""Rows of the table of predicted against actual."""


@dataclass(frozen=True)
class Forecast:
    """Fits to `fitted`, with the bootstrap's fits of both; `rest` are the later steps, empty where all were fitted."""

    fitted: Series
    rest: Series
    law: Law
    decay: Decay
    laws: tuple[Law, ...]
    decays: tuple[Decay, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user must know to read the numbers."""
        notes = list(self.fitted.notes)
        if self.law.a <= 0:
            notes.append("a is not positive: the score does not rise as entropy falls, so the law says no ceiling here")
        elif self.law.ceiling > 1:
            notes.append("the ceiling is above 1, more than a share can be: the law bends before entropy is spent")
        return tuple(notes)

    def spread(self, name: str) -> tuple[float, tuple[float, float]]:
        """(value, 90 % interval) of a number: a, b, ceiling, floor, start, tau, spent (a step; inf: not reached)."""
        if name == "spent":
            return self.decay.reaches(SPENT), interval(np.array([d.reaches(SPENT) for d in self.decays]), LEVEL)
        one: Any = self.law if name in ("a", "b", "ceiling") else self.decay
        drawn: Any = self.laws if one is self.law else self.decays
        return float(getattr(one, name)), interval(np.array([getattr(d, name) for d in drawn]), LEVEL)


NUMBERS = ("a", "b", "ceiling", "start", "floor", "tau", "spent")


def forecast(
    records: Sequence[Mapping[str, Any]], options: Mapping[str, Any], first: float | None = None, draws: int = DRAWS
) -> Forecast:
    """Fit a run's records, or the steps in its first share `first` (0 to 1, exclusive).

    options: flat options of the run's record, {} where they are unknown. draws: of the bootstrap. InputError for what
    cannot be fitted.
    """
    if first is not None and not 0 < first < 1:
        raise InputError(f"--first {first:g} is no share of the run: give a number between 0 and 1, such as 0.5")
    whole, end = series(records, options, 1.0 if first is None else first)
    fitted, rest = whole.between(-math.inf, end), whole.between(end, math.inf)
    check(fitted, None if first is None else rest)
    law, decay = fit_law(fitted.score_entropy, fitted.score), fit_decay(fitted.step, fitted.entropy)
    line, curve = law.score(fitted.score_entropy), decay.entropy(fitted.step)

    def again_law(score: Array) -> Law:
        return fit_law(fitted.score_entropy, score)

    def again_decay(entropy: Array) -> Decay:
        return fit_decay(fitted.step, entropy)

    laws = bootstrap(line, fitted.score - line, 2, again_law, draws, SEED)
    decays = bootstrap(curve, fitted.entropy - curve, 3, again_decay, draws, SEED + 1)
    return Forecast(fitted, rest, law, decay, tuple(laws), tuple(decays))


def check(fitted: Series, rest: Series | None) -> None:
    """InputError where the fitted part is too short or without change, or where nothing is left to predict."""
    scores = f"scores ({fitted.score_name})"
    for told, there, least in (("steps", fitted.step, MIN_STEPS), (scores, fitted.score, MIN_EVALS)):
        if len(there) < least:
            few = f"{len(there)} {told} to fit, at least {least} are needed"
            raise InputError(f"{few}: let the run go on, or fit more of it")
    if np.ptp(fitted.entropy) <= 1e-9 or np.ptp(fitted.score_entropy) <= 1e-9:
        raise InputError(
            "entropy is constant in the fitted steps: there is nothing to fit; take a longer part of a run"
        )
    if rest is not None and not (len(rest.step) and len(rest.score)):
        raise InputError("no step is left to predict: give a smaller --first, or none to fit the whole run")


@dataclass(frozen=True)
class Outcome:
    """The rest of a run against its forecast: root mean squared errors, beside those of a flat line.

    score: R by the law from the predicted entropy; score_given_entropy: from the actual one, the law alone. flat_*: the
    mean of the last quarter of the fitted part, the forecast to beat. bias_*: mean of predicted minus actual.
    *_stretches: of means over the stretches of `windows`, where the noise of single steps is averaged away.
    """

    entropy: float
    bias_entropy: float
    flat_entropy: float
    score: float
    bias_score: float
    score_given_entropy: float
    flat_score: float
    score_stretches: float
    flat_stretches: float


def outcome(found: Forecast) -> Outcome:
    """How well the fit predicts `found.rest`."""
    rest, fitted = found.rest, found.fitted
    entropy = found.decay.entropy(rest.step)
    score = found.law.score(found.decay.entropy(rest.score_step))
    given = found.law.score(rest.score_entropy)
    predicted, actual = np.array([w.score for w in windows(found)]).T
    last_h, last_r = (float(np.mean(v[-max(1, len(v) // 4) :])) for v in (fitted.entropy, fitted.score))
    return Outcome(
        entropy=rmse(entropy, rest.entropy),
        bias_entropy=float(np.mean(entropy - rest.entropy)),
        flat_entropy=rmse(np.full_like(rest.entropy, last_h), rest.entropy),
        score=rmse(score, rest.score),
        bias_score=float(np.mean(score - rest.score)),
        score_given_entropy=rmse(given, rest.score),
        flat_score=rmse(np.full_like(rest.score, last_r), rest.score),
        score_stretches=rmse(predicted, actual),
        flat_stretches=rmse(np.full_like(actual, last_r), actual),
    )


@dataclass(frozen=True)
class Window:
    """Means over the steps `first` to `last`: (predicted, actual), and the predicted score's 90 % interval."""

    first: int
    last: int
    entropy: tuple[float, float]
    score: tuple[float, float]
    score_interval: tuple[float, float]


def windows(found: Forecast) -> list[Window]:
    """The rest of the run in at most WINDOWS stretches with a score each."""
    rest, out = found.rest, []
    for steps in np.array_split(rest.step, min(WINDOWS, len(rest.step))):
        part = rest.between(steps[0] - 1, steps[-1])
        if not len(part.score):
            continue
        curves = [law.score(d.entropy(part.score_step)) for law, d in zip(found.laws, found.decays, strict=True)]
        predicted = found.law.score(found.decay.entropy(part.score_step))
        entropy = (float(found.decay.entropy(part.step).mean()), float(part.entropy.mean()))
        score = (float(predicted.mean()), float(part.score.mean()))
        band = interval(np.array([c.mean() for c in curves]), LEVEL)
        out.append(Window(int(steps[0]), int(steps[-1]), entropy, score, band))
    return out
