"""Each sign of a collapse fires on the series it is for, at its threshold, and not beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rekindle.train.signals import CLEAR, SIGNALS, WAITS, Finding
from rekindle.train.traces import Trace
from tests.train.watched import ONE, traced

HELD = {5: {"pass@1": 0.3, "pass@16": 0.9, "maj@16": 0.6}}


def level(name: str, trace: Trace) -> float:
    found = SIGNALS[name](trace, ONE)
    return -1.0 if found is None else found.level


FIRES = {
    "entropy": traced({"entropy": [1.0, 0.29]}),
    "spent": traced({"entropy": [1.0, 0.09]}),
    "floor": traced({"entropy": [0.3, 0.04]}),
    "slope": traced({"entropy": [1.0, 1.0, 0.49]}),
    "dead": traced({"groups/dead": [0.1, 0.85]}),
    "truncated": traced({"truncated": [0.05, 0.31]}),
    "repetition": traced({"repetition": [0.1, 0.31]}),
    "lock_in": traced({"answers/distinct": [0.4, 0.15], "answers/majority": [0.4, 0.85]}),
    "reward": traced({"score": [0.4, 0.15]}, free=False),
    "length": traced({"length": [10.0, 21.0]}),
    "update_kl": traced({"update_kl_k3": [0.001, 0.06]}),
    "clip": traced({"clip_high": [0.0, 0.3], "clip_low": [0.0, 0.15]}),
    "hacking": traced({"score": [0.2] * 9 + [0.5]}, {**HELD, 10: {"pass@1": 0.3, "pass@16": 0.9, "maj@16": 0.4}}),
    "diversity": traced({"score": [0.2] * 10}, {**HELD, 10: {"pass@1": 0.4, "pass@16": 0.6}}),
    "coverage": traced({"score": [0.2] * 10}, {**HELD, 10: {"pass@1": 0.2, "pass@16": 0.6}}),
}
QUIET = {
    "entropy": [traced({"entropy": [1.0, 0.35]}), traced({"length": [4.0, 4.0]}), traced({"entropy": [1.0]})],
    "spent": [traced({"entropy": [1.0, 0.15]})],
    "floor": [traced({"entropy": [0.3, 0.06]}), traced({"entropy": [0.04, 0.03]})],
    "slope": [traced({"entropy": [1.0, 0.55]}), traced({"entropy": [0.985**i for i in range(80)]})],
    "dead": [traced({"groups/dead": [0.1, 0.7]}), traced({"groups/dead": [1.0, 1.0]})],
    "truncated": [traced({"truncated": [0.05, 0.2]}), traced({"truncated": [0.6, 0.6]})],
    "repetition": [traced({"repetition": [0.3, 0.4]})],
    "lock_in": [
        traced({"answers/distinct": [0.4, 0.3], "answers/majority": [0.4, 0.85]}),
        traced({"answers/distinct": [0.4, 0.15], "answers/majority": [0.9, 0.85]}),
        traced({"answers/distinct": [0.4, 0.15], "answers/majority": [0.4, 0.85]}, free=False),
    ],
    "reward": [traced({"score": [0.4, 0.3]}, free=False), traced({"score": [0.4, 0.0]}, free=True)],
    "length": [traced({"length": [10.0, 19.0]}), traced({"length": [10.0, 6.0]})],
    "update_kl": [traced({"update_kl_k3": [0.001, 0.04]})],
    "clip": [traced({"clip_high": [0.0, 0.2], "clip_low": [0.0, 0.1]}), traced({"clip_high": [0.0, 0.9]})],
    "hacking": [
        traced({"score": [0.2] * 10}, {**HELD, 10: {"pass@1": 0.3, "pass@16": 0.9, "maj@16": 0.4}}),
        traced({"score": [0.2] * 9 + [0.5]}, {**HELD, 10: {"pass@1": 0.3, "pass@16": 0.9, "maj@16": 0.55}}),
    ],
    "diversity": [traced({"score": [0.2] * 10}, {**HELD, 10: {"pass@1": 0.2, "pass@16": 0.6}})],
    "coverage": [
        traced({"score": [0.2] * 10}, {**HELD, 10: {"pass@1": 0.4, "pass@16": 0.6}}),
        traced({"score": [0.2] * 10}, {**HELD, 10: {"pass@1": 0.2, "pass@16": 0.8}}),
        traced({"score": [0.2] * 10}, HELD),
    ],
}


def test_every_sign_is_tried_both_ways() -> None:
    assert FIRES.keys() == QUIET.keys() == SIGNALS.keys()


@pytest.mark.parametrize("name", SIGNALS)
def test_fires_on_the_series_it_is_for(name: str) -> None:
    assert level(name, FIRES[name]) >= 1


@pytest.mark.parametrize("name", SIGNALS)
def test_does_not_fire_beside_it(name: str) -> None:
    assert all(level(name, trace) < 1 for trace in QUIET[name])


def test_a_fall_of_pass_at_k_is_one_sign_at_a_time_and_the_other_waits() -> None:
    for one, other in (("diversity", "coverage"), ("coverage", "diversity")):
        assert level(other, FIRES[one]) == WAITS and CLEAR < WAITS < 1


def test_shorter_responses_drift_as_longer_ones_do() -> None:
    assert level("length", traced({"length": [10.0, 4.0]})) == pytest.approx(1.25)
    assert level("length", traced({"length": [10.0, 0.0]})) > 1


def test_the_numbers_of_a_finding_are_those_of_the_series() -> None:
    got = SIGNALS["entropy"](traced({"entropy": [1.0, 0.6, 0.2]}), ONE)
    want = Finding(level=0.8 / 0.7, metric="entropy", before=1.0, now=0.2, since=1, threshold=0.3)
    assert got is not None and got.level == pytest.approx(want.level) and replace(got, level=want.level) == want
    slope = SIGNALS["slope"](traced({"entropy": [1.0, 1.4, 1.2, 0.2]}), ONE)
    assert slope is not None and (slope.before, slope.since) == (1.4, 2), "from the highest within the window"


@pytest.mark.parametrize(("start", "now", "fires"), [(-0.1, -0.56, True), (-0.1, -0.5, False), (0.0, -0.5, True)])
def test_a_score_that_starts_at_zero_or_below_falls_towards_the_lowest_scores(
    start: float, now: float, fires: bool
) -> None:
    signed = {"score": [start, now], "score/lowest": [-1.0, -1.0]}
    assert (level("reward", traced(signed, free=False)) >= 1) == fires and level("reward", traced(signed)) == -1
    assert level("reward", traced({"score": [start, now]}, free=False)) == -1, "no scale is known"
    assert level("reward", traced({"score": [start, now], "score/lowest": [start, now]}, free=False)) == -1


def test_a_score_that_starts_above_zero_is_measured_by_its_share_alone() -> None:
    plain, signed = {"score": [0.4, 0.2]}, {"score": [0.4, 0.2], "score/lowest": [-1.0, -1.0]}
    assert level("reward", traced(plain, free=False)) == level("reward", traced(signed, free=False)) == 1


def test_a_slope_is_of_the_last_steps_alone() -> None:
    slow = [1.0] * 3 + [0.9 - 0.02 * i for i in range(40)]
    assert level("slope", traced({"entropy": slow[:25]})) < 1
    assert level("slope", traced({"entropy": [*slow[:25], 0.2]})) >= 1


def test_steps_are_smoothed_so_that_one_odd_step_is_no_sign() -> None:
    watch = replace(ONE, start=3, smooth=3)
    series = [1.0] * 10 + [0.2] + [1.0] * 3
    for end in range(4, len(series)):
        found = SIGNALS["entropy"](traced({"entropy": series[:end]}, watch=watch), watch)
        assert found is not None and found.level < 1


def test_what_is_not_a_number_is_passed_over() -> None:
    from tests.train.watched import remembered

    memory = remembered([{"kind": "step", "step": 1, "entropy": None, "length": 4.0, "truth/pass@1": 0.5}])
    assert memory["first"] == [{"step": 1, "length": 4.0}], "and the truth is never remembered"
