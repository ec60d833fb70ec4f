"""The entropy law and the decay of entropy: the source's numbers, recovery, intervals, and what cannot be fitted."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from rekindle.errors import InputError
from rekindle.report.fits import Decay, bootstrap, fit_decay, huber_weights, interval, rmse
from rekindle.report.forecast import NUMBERS, Forecast, outcome, windows
from rekindle.report.forecast import forecast as fit
from rekindle.report.series import UNKNOWN, interventions, label_free, series
from rekindle.train.law import Law, fit_law

GRPO = {"collect.label": "Verified", "objective": "Clip", "objective.low": 0.8, "objective.high": 1.2}
TTRL = {**GRPO, "collect.label": "MajorityVote"}
TRUE = Decay(floor=0.1, start=1.2, tau=30.0, first=1.0)
LAW = Law(a=0.06, b=0.62)


def forecast(records: list[dict[str, Any]], options: dict[str, Any], first: float | None = None) -> Forecast:
    return fit(records, options, first, draws=60)


def run(steps: int = 80, noise: float = 0.0, decay: Decay = TRUE, law: Law = LAW, **more: Any) -> list[dict[str, Any]]:
    random = np.random.default_rng(3)
    step = np.arange(1, steps + 1, dtype=float)
    entropy = decay.entropy(step)
    score = law.score(entropy) + noise * random.standard_normal(steps)
    entropy = entropy + noise * random.standard_normal(steps)
    rows = zip(step, entropy, score, strict=True)
    return [{"kind": "step", "step": int(s), "entropy": h, "success": r, **more} for s, h, r in rows]


def test_the_worked_numbers() -> None:
    entropy = np.array([1.2, 0.8, 0.5, 0.3, 0.1])
    score = np.array([0.4208, 0.4865, 0.5211, 0.5390, 0.5537])
    law = fit_law(entropy, score)
    assert (law.a, law.b, law.ceiling) == pytest.approx((0.06, 0.62, 0.56), abs=2e-4)
    assert law.score(entropy) == pytest.approx(score, abs=1e-4)
    assert LAW.score(entropy) == pytest.approx(score, abs=5e-5)


def test_the_decay_is_recovered() -> None:
    step = np.arange(1.0, 81.0)
    found = fit_decay(step, TRUE.entropy(step))
    assert found.tau == pytest.approx(30, rel=0.02) and found.first == 1
    assert (found.floor, found.start) == pytest.approx((0.1, 1.2), abs=0.01)
    assert rmse(found.entropy(step), TRUE.entropy(step)) < 2e-3


def test_an_outlier_hardly_moves_the_decay() -> None:
    step = np.arange(1.0, 81.0)
    noise = 0.01 * np.random.default_rng(0).standard_normal(80)
    clean, spiked = TRUE.entropy(step) + noise, TRUE.entropy(step) + noise
    spiked[60] += 3.0
    off = np.abs(fit_decay(step, spiked).entropy(step) - fit_decay(step, clean).entropy(step)).max()
    assert off < 0.02
    assert huber_weights(spiked - clean).tolist() == [1.0] * 80, "a spread of 0 weighs all alike"
    weights = huber_weights(spiked - TRUE.entropy(step))
    assert weights.argmin() == 60 and weights[60] < 0.02 and np.median(weights) == 1


def test_the_floor_is_never_below_zero() -> None:
    step = np.arange(1.0, 41.0)
    found = fit_decay(step, 1.0 - 0.02 * step)
    assert found.floor >= 0 and rmse(found.entropy(step), 1.0 - 0.02 * step) < 0.1


def test_where_a_level_is_reached() -> None:
    spent = Decay(floor=0.0, start=0.4, tau=10.0, first=1.0)
    at = spent.reaches(0.05)
    assert at == pytest.approx(1 + 10 * math.log(8)) and spent.entropy(np.array([at]))[0] == pytest.approx(0.05)
    assert TRUE.reaches(0.05) == math.inf, "the floor is above"
    assert Decay(floor=0.2, start=0.1, tau=5.0, first=1.0).reaches(0.05) == math.inf, "entropy rises"
    assert Decay(floor=0.0, start=0.03, tau=5.0, first=7.0).reaches(0.05) == 7
    assert Decay(floor=0.2, start=0.03, tau=5.0, first=7.0).reaches(0.05) == math.inf


def test_a_forecast_of_an_exact_run() -> None:
    found = forecast(run(), GRPO, first=0.5)
    assert (found.fitted.step[-1], found.rest.step[0], found.rest.step[-1]) == (40, 41, 80)
    value, (low, high) = found.spread("ceiling")
    assert value == pytest.approx(0.56, abs=1e-9) and low == pytest.approx(high, abs=1e-6)
    error = outcome(found)
    assert error.entropy < 0.005 and error.score < 0.001 and error.score_given_entropy < 1e-9
    assert error.flat_entropy > 0.1 and error.flat_score > 0.005
    assert found.spread("spent")[0] == math.inf and found.notes == ()


def test_intervals_hold_the_truth_and_repeat() -> None:
    one, two = (forecast(run(noise=0.01), GRPO) for _ in range(2))
    assert {n: one.spread(n) for n in NUMBERS} == {n: two.spread(n) for n in NUMBERS}
    assert len(one.laws) == len(one.decays) == 60
    for name, truth in {"a": 0.06, "b": 0.62, "ceiling": 0.56, "start": 1.2, "floor": 0.1, "tau": 30.0}.items():
        value, (low, high) = one.spread(name)
        assert low <= truth <= high and low <= value <= high, name
        assert 0 < high - low < (30 if name == "tau" else 0.3), name
    assert not len(one.rest.step)


def test_intervals_cover_as_often_as_they_say() -> None:
    step = np.arange(1.0, 61.0)
    entropy, inside = TRUE.entropy(step), 0
    for seed in range(60):
        score = LAW.score(entropy) + 0.02 * np.random.default_rng(seed).standard_normal(60)
        line = fit_law(entropy, score).score(entropy)
        fits = bootstrap(line, score - line, 2, lambda y: fit_law(entropy, y), 100, seed)
        low, high = interval(np.array([law.ceiling for law in fits]), 0.9)
        inside += low <= 0.56 <= high
    assert 47 <= inside <= 60, "54 of 60 expected, three standard errors are 7"


def test_a_spent_step_and_its_interval() -> None:
    falling = Decay(floor=0.0, start=0.4, tau=20.0, first=1.0)
    found = forecast(run(60, 0.003, falling), GRPO)
    value, (low, high) = found.spread("spent")
    assert value == pytest.approx(falling.reaches(0.05), abs=4) and low <= falling.reaches(0.05) <= high


def test_windows_tile_the_rest() -> None:
    found = forecast(run(noise=0.001), GRPO, first=0.4)
    tiles = windows(found)
    assert tiles[0].first == 33 and tiles[-1].last == 80 and len(tiles) == 5
    assert all(b.first == a.last + 1 for a, b in pairwise(tiles))
    for tile in tiles:
        assert tile.entropy[0] == pytest.approx(tile.entropy[1], abs=0.03)
        assert tile.score_interval[0] <= tile.score[0] <= tile.score_interval[1]


def evaluations(every: int, steps: int = 80) -> list[dict[str, Any]]:
    return [{"kind": "eval", "step": s, "pass@1": 0.3 + s / 1000} for s in range(every, steps + 1, every)]


def test_evaluations_are_the_score_where_there_are_five() -> None:
    whole, end = series([*run(), *evaluations(10)], GRPO)
    assert whole.score_name == "evaluation pass@1" and end == 80
    assert whole.score_step.tolist() == list(range(10, 81, 10)) and whole.score[0] == pytest.approx(0.31)
    assert whole.score_entropy[0] == whole.entropy[10], "the weights after step 10 sampled step 11"
    assert whole.score_entropy[-1] == whole.entropy[79], "nothing was sampled after the last step"
    assert series([*run(), *evaluations(20)], GRPO)[0].score_name == "training success"
    half, end = series([*run(), *evaluations(10)], GRPO, 0.5)
    assert end == 40 and half.score_name == "training success", "four of them lie in the first half"


def test_label_free_runs_say_whose_success_it_is() -> None:
    assert "truth meter" in series(run(**{"truth/pass@1": 0.5}), TTRL)[0].score_name
    assert series(run(**{"truth/pass@1": 0.5}), TTRL)[0].score.tolist() == [0.5] * 80
    voted = {"vote/majority_share": 0.4}
    assert "by the vote, not by the truth" in series(run(**voted), TTRL)[0].score_name
    assert "by the vote" in series(run(**voted), {})[0].score_name
    assert "own label" in series(run(), {**GRPO, "collect.label": "Answered"})[0].score_name
    assert series(run(**{"truth/pass@1": 0.5}), GRPO)[0].score_name == "training success"
    assert (label_free({}), label_free(GRPO), label_free(TTRL)) == (None, False, True)
    assert label_free({"methods.0.collect.label": "Verified", "methods.1.collect.label": "MajorityVote"}) is True


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"terms.0": "EntropyBonus", "terms.0.coef": 0.01}, "terms.0 = EntropyBonus"),
        ({"terms.0": "KLToReference", "terms.0.coef": 0.001}, "KLToReference"),
        ({"methods.1.terms.0": "CovarianceKL", "methods.1.terms.0.coef": 1.0}, "CovarianceKL"),
        ({"keep.0": "CovarianceClip"}, "CovarianceClip"),
        ({"objective.low": 0.8, "objective.high": 1.28}, "objective.high = 1.28"),
        ({"collect.shape.0": "Novelty"}, "Novelty"),
    ],
)
def test_an_intervention_is_named(options: dict[str, Any], named: str) -> None:
    (note,) = interventions(GRPO | options)
    assert named in note and note.startswith("the law holds only for runs without entropy intervention")
    assert forecast(run(), GRPO | options).notes == (note,)


def test_no_intervention_no_note() -> None:
    assert interventions(GRPO) == []
    assert interventions({**GRPO, "terms.0": "EntropyBonus", "terms.0.coef": 0.0, "embed": "entropy"}) == []
    assert interventions({**GRPO, "prepare.0": "Choose", "prepare.0.by": "entropy"}) == [], "an option, not a part"
    assert interventions({**GRPO, "objective.low": 0.9997, "objective.high": 1.0004}) == []
    assert forecast(run(), {}).notes == (UNKNOWN,)


def test_impossible_ceilings_are_noted() -> None:
    assert "above 1" in forecast(run(law=Law(0.3, 1.5)), GRPO).notes[0]
    assert "a is not positive" in forecast(run(law=Law(-0.1, 0.2)), GRPO).notes[0]


def scored(count: int) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k != "success" or r["step"] <= count} for r in run()]


def test_five_scores_are_enough() -> None:
    assert len(forecast(scored(5), GRPO).fitted.score) == 5


@pytest.mark.parametrize(
    ("records", "first", "words"),
    [
        ([], None, "no steps yet"),
        (run(7), None, "7 steps to fit, at least 8"),
        (run(12), 0.5, "6 steps to fit"),
        (scored(4), None, r"4 scores \(training success\) to fit, at least 5"),
        ([{**r, "entropy": 0.5} for r in run()], None, "entropy is constant"),
        ([{"kind": "step", "step": 1, "success": 0.5}], None, "'entropy'"),
        ([{k: v for k, v in r.items() if k != "success"} for r in run()], None, "'success'"),
        ([{**r, "entropy": None} for r in run()], None, "'entropy'"),
        (run(), 1.0, "between 0 and 1"),
        (run(), 0.0, "between 0 and 1"),
    ],
)
def test_what_cannot_be_fitted_is_refused(records: list[dict[str, Any]], first: float | None, words: str) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        forecast(records, GRPO, first)
    assert ":" in str(refusal.value)


def test_steps_without_a_number_are_left_out() -> None:
    records = run()
    records[3] = {**records[3], "success": None}
    records[5] = {**records[5], "entropy": None}
    whole, _ = series(records, GRPO)
    assert len(whole.step) == 79 and len(whole.score) == 78 and 4.0 not in whole.score_step
    assert forecast(records, GRPO).law.ceiling == pytest.approx(0.56, abs=1e-9)
