"""GRESO: skip probabilities, their adaptation, saturated data that ends, and a run that resumes with its rates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rekindle.core.types import Update
from rekindle.errors import GuardStop
from rekindle.methods import greso
from rekindle.methods.greso import AdaptRates, SkipSaturated, state
from rekindle.tokens.rollouts import Example
from rekindle.tokens.stream import saturation, thinned
from tests.batches import make_batch, make_now
from tests.methods.resumed import assert_alike, memory, run_twice
from tests.methods.streams import Stream, table_of, table_run

METHOD = greso.method()
DONE = Update(batch=make_batch(), now=make_now(make_batch()), metrics={}, index=0, last=True)


@pytest.mark.parametrize(
    ("shares", "skipped"),
    [
        ([], 0.0),
        ([0.5], 0.0),
        ([1.0], 0.5),
        ([1.0, 1.0], 0.75),
        ([0.0] * 3, 0.875),
        ([1.0] * 6, 1 - 0.5**6),
        ([1.0] * 7, 0.99),
        ([0.0] * 50, 0.99),
        ([1.0, 1.0, 0.5], 0.0),
        ([1.0, 0.0], 0.5),
        ([0.5, 0.1, 0.11], 0.75),
        ([0.98], 0.5),
        ([0.97], 0.0),
    ],
)
def test_skip_probability(shares: list[float], skipped: float) -> None:
    run = Stream()
    run.memory["history"]["a"] = shares
    assert 1 - SkipSaturated().keep(run, Example("a", "x")) == pytest.approx(skipped, abs=1e-12)


def test_skipping_is_monotone_in_the_visits_and_never_certain() -> None:
    run, part = Stream(), SkipSaturated()
    chances = []
    for visits in range(12):
        run.memory["history"]["a"] = [1.0] * visits
        chances.append(part.keep(run, Example("a", "x")))
    assert chances[0] == 1.0 and chances == sorted(chances, reverse=True) and min(chances) == 0.01


def test_easy_and_hard_runs_are_told_apart() -> None:
    assert saturation([0.5, 1.0, 1.0], 0.98, 0.11) == ("easy", 2)
    assert saturation([1.0, 0.0, 0.0, 0.0], 0.98, 0.11) == ("hard", 3)
    assert saturation([0.0, 0.3], 0.98, 0.11) == (None, 0)


def test_saturated_prompts_come_seldom_and_others_always() -> None:
    run = Stream()
    run.memory["history"] = {str(i): [1.0] * 3 for i in range(5)}
    counts = [0] * 10
    for example in SkipSaturated()(run, 1200):
        counts[int(example.id)] += 1
    easy, fresh = sum(counts[:5]), sum(counts[5:])
    assert easy + fresh == 1200 and easy / fresh == pytest.approx(0.125, abs=0.04)


def after_a_step(shares: list[float], before: list[float] | None, times: int = 1) -> dict[str, float]:
    run = Stream(total=len(shares))
    run.memory["history"] = {str(i): list(before) for i in range(len(shares))} if before else {}
    for _ in range(times):
        asked = SkipSaturated()(run, len(shares))
        for example in asked:
            run.memory["history"].setdefault(example.id, []).append(shares[int(example.id)])
        for last in (False, True):
            AdaptRates()(run, replace(DONE, last=last))
    return state(run)


def test_rates_adapt_by_a_hundredth_a_step_from_the_second_epoch_on() -> None:
    mixed = [0.5]
    assert after_a_step([1.0, 0.0, 0.5, 0.5], None)["easy"] == 0.5, "the first epoch only looks"
    now = after_a_step([1.0, 0.5, 0.5, 0.5], mixed)
    assert (now["easy"], now["hard"]) == pytest.approx((0.49, 0.51)), "a quarter easy, none hard"
    now = after_a_step([0.0, 0.5, 0.5, 0.5, 0.5, 0.5], mixed)
    assert (now["easy"], now["hard"]) == pytest.approx((0.51, 0.49)), "a sixth is the target"
    now = after_a_step([0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], mixed)
    assert (now["easy"], now["hard"]) == pytest.approx((0.51, 0.49))
    assert now["asked"] == [], "a step's prompts count once"


def test_rates_keep_within_bounds() -> None:
    assert after_a_step([0.5] * 4, [0.5], times=60)["easy"] == 0.95
    run = Stream()
    run.memory |= {"history": {"0": [1.0]}, "greso": {"easy": 0.05, "hard": 0.5, "asked": ["0"], "repeats": True}}
    AdaptRates()(run, DONE)
    assert state(run)["easy"] == 0.05


@pytest.mark.parametrize("options", [{"solved": 1.0}, {"unsolvable": 1.0}])
def test_saturated_data_ends_in_a_sentence(options: dict[str, Any]) -> None:
    run = table_run(METHOD, **options)
    with pytest.raises(GuardStop, match="mixed group in 10 rounds"):
        for _ in range(50):
            run.step()
    assert run.sampled <= 50 * 10 * 8 * 4


def test_a_stream_that_is_skipped_throughout_ends_too() -> None:
    run = Stream()
    with pytest.raises(GuardStop, match=r"only 0 of 5 .* after 3 looks .* skipped as solved or unsolved"):
        thinned(run, 5, lambda example: 0.0, patience=3)
    assert run.memory["prompts"] == 15


def test_same_seed_is_the_same_run_and_memory_is_json() -> None:
    runs = [table_run(METHOD, questions=16, solved=0.25) for _ in range(2)]
    for step in range(5):
        for run in runs:
            run.step()
        if step == 2:
            runs[1].memory = json.loads(json.dumps(runs[1].memory))
    assert runs[0].memory == runs[1].memory and (table_of(runs[0]) == table_of(runs[1])).all()
    assert runs[0].memory["greso"]["repeats"] and runs[0].memory["greso"]["easy"] != 0.5


def test_a_real_run_resumes_with_its_rates(tmp_path: Path) -> None:
    whole, cut = run_twice("greso", tmp_path, rollout__prompts=20)
    assert_alike(whole, cut)
    assert memory(whole)["greso"]["easy"] != 0.5 and memory(whole)["uniforms"] > 80
