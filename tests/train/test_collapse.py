"""The watch: a sign is told once an episode, a resumed watch goes on as it was, and the verdict follows its rule."""

from __future__ import annotations

import copy
import itertools
import json
import re

import pytest

from rekindle.methods import names
from rekindle.train.collapse import VERDICT, bought, collapsing, evidence, look, sentences, values
from rekindle.train.find import find_method, make_method
from rekindle.train.options import flatten
from rekindle.train.remedies import remedy, stop_notes
from rekindle.train.sections import Evaluate
from rekindle.train.sections_watch import Watch
from rekindle.train.settings import RunConfig
from rekindle.train.signals import SIGNALS
from rekindle.train.traces import fresh, seen
from tests.train.watched import ONE, records, remembered, sights, traced

OPTIONS = {"method": "ttrl", "objective.high": 1.2, "terms": (), "descent.lr": 1e-3}
FALL = {
    "entropy": [1.0, 0.8, 0.6, 0.4, 0.2, 0.05, 0.02],
    "answers/distinct": [0.5, 0.5, 0.4, 0.3, 0.1, 0.1, 0.1],
    "answers/majority": [0.3, 0.4, 0.5, 0.6, 0.9, 1.0, 1.0],
    "groups/dead": [0.0, 0.0, 0.0, 0.2, 0.71, 0.75, 0.75],
    "score": [0.3, 0.4, 0.5, 0.6, 0.9, 1.0, 1.0],
}
EVALS = {2: {"pass@1": 0.4, "pass@16": 1.0}, 4: {"pass@1": 0.3, "pass@16": 0.7}, 6: {"pass@1": 0.1, "pass@16": 0.2}}
HELD = {step: {"pass@1": 0.4, "pass@16": 1.0} for step in EVALS}


def asked(every: int, watch: Watch | None = None, *, base: bool = True) -> RunConfig:
    """Fifty steps that stop at a collapse, evaluated so often."""
    watch = Watch(stop=True) if watch is None else watch
    return RunConfig(method="ttrl", steps=50, watch=watch, evaluate=Evaluate(every=every, baseline=base))


def told(columns: dict, evals: dict | None = None, free: bool = True) -> dict[str, list[int]]:
    """Sign -> the steps at which it was told, the verdict among them."""
    out: dict[str, list[int]] = {}
    for step, sight in sights(fresh(bool(evals)), records(columns, evals), free=free):
        for name in [*sight.new, *([VERDICT] if sight.first else [])]:
            out.setdefault(name, []).append(step)
    return out


def test_each_sign_of_a_fall_is_told_once_and_the_verdict_where_its_grounds_are_there() -> None:
    got = told(FALL, EVALS)
    assert got == {
        **{"coverage": [4], "hacking": [4], "slope": [4], "entropy": [5], "lock_in": [5], "spent": [6], "floor": [6]},
        VERDICT: [5],
    }


def test_a_number_that_moves_about_its_threshold_is_told_once_and_again_after_it_has_recovered() -> None:
    about = [1.0, 0.28, 0.32, 0.29, 0.33, 0.28]
    assert told({"entropy": about})["entropy"] == [2]
    assert told({"entropy": [*about, 0.9, 0.9, 0.2]})["entropy"] == [2, 9]


def test_a_watch_that_is_saved_and_read_again_goes_on_as_it_would_have() -> None:
    series = {name: [*column, *column[::-1], *column] for name, column in FALL.items()}
    evals = {**EVALS, 10: EVALS[2], 16: EVALS[4], 20: EVALS[6]}
    whole = records(series, evals)
    straight, memory = fresh(True), fresh(True)
    wanted = sights(straight, whole)
    got = []
    cuts = [i for i, r in enumerate(whole) if r["kind"] == "step"] + [len(whole)]
    for begin, end in itertools.pairwise(cuts):
        memory = json.loads(json.dumps(memory))
        got += sights(memory, whole[begin:end])
    assert got == wanted and memory == straight and any(sight.first for _, sight in wanted)


def test_memory_is_bounded_in_the_number_of_steps() -> None:
    memory = remembered(records({"entropy": [1.0] * 500}), Watch())
    assert len(memory["first"]) == Watch().start
    assert len(memory["last"]) == Watch().slope_steps + Watch().smooth


@pytest.mark.parametrize(
    ("free", "evals", "grounds"),
    [
        (True, EVALS, {"slope", "lock_in", "coverage"}),
        (True, None, {"spent", "lock_in"}),
        (False, EVALS, {"spent", "coverage"}),
        (False, None, {"spent", "reward"}),
    ],
)
def test_the_verdict_needs_each_of_its_grounds(free: bool, evals: dict | None, grounds: set[str]) -> None:
    trace = traced(FALL, evals, free=free)
    assert collapsing(dict.fromkeys(grounds, 1), trace)
    for one in grounds:
        assert not collapsing(dict.fromkeys(set(SIGNALS) - {*grounds, "spent", "slope"} | grounds - {one}, 1), trace)


def test_entropy_spent_on_what_is_right_is_no_collapse() -> None:
    assert VERDICT not in told(FALL, HELD, free=False) and VERDICT not in told(FALL, HELD)
    assert told(FALL, EVALS, free=False)[VERDICT] == [6]


def test_a_verdict_ends_with_its_grounds_and_is_told_again() -> None:
    there = {name: [*column, column[0], column[0], column[-1]] for name, column in FALL.items()}
    assert told(there)[VERDICT] == [5, 10]


START = {0: {"pass@1": 0.4, "pass@16": 0.8}}
GONE = {"pass@1": 0.0, "pass@16": 0.0}
SCORED = {**FALL, "score": [0.5] * 4 + [0.0] * 3}


@pytest.mark.parametrize(("free", "columns"), [(True, FALL), (False, SCORED)])
def test_no_verdict_before_an_evaluation_where_the_run_has_any(free: bool, columns: dict) -> None:
    assert told(columns, free=free)[VERDICT] == [5 if free else 6], "it has all the signs of the training"
    for evals in ({0: START[0]}, {7: GONE}, {7: START[0]}):
        assert VERDICT not in told(columns, evals, free=free)


@pytest.mark.parametrize(("free", "columns"), [(True, FALL), (False, SCORED)])
def test_one_evaluation_is_enough_beside_that_of_the_start_model(free: bool, columns: dict) -> None:
    got = told(columns, {**START, 6: GONE}, free=free)
    assert got[VERDICT] == [6] and got["coverage"] == [6]
    assert VERDICT not in told(columns, {**START, 6: {"pass@1": 0.5, "pass@16": 0.79}}, free=free)


def test_what_was_lost_before_the_first_evaluation_stays_lost() -> None:
    long = {name: [*column, *column[-1:] * 8] for name, column in FALL.items()}
    evals = {**START, 7: GONE, 10: GONE, 13: GONE}
    assert told(long, evals)[VERDICT] == [7]
    looked = [sight.collapsing for _, sight in sights(fresh(True), records(long, evals))]
    assert looked == [False] * 6 + [True] * 9, "and the verdict is not taken back"
    assert VERDICT not in told(long, {7: GONE, 10: GONE, 13: GONE}), "of an unknown start nothing can be lost"


def test_a_start_model_that_is_not_evaluated_held_out_leaves_no_evaluation() -> None:
    memory = remembered([{"kind": "baseline", "step": 0, "start/pass@1": 0.4, "start/maj@16": 0.9, "prompts": 16}])
    assert memory["evals"] == []
    memory = remembered(records(FALL, {0: {**START[0], "entropy": 1.0, "maj@16": 0.7}}))
    assert memory["evals"] == [{"step": 0, **START[0], "maj@16": 0.7}], "its entropy and score are not the run's"


def test_a_sentence_holds_evidence_and_remedy() -> None:
    (_, sight), trace = (
        sights(fresh(True), records(FALL, EVALS))[4],
        traced({n: c[:5] for n, c in FALL.items()}, EVALS),
    )
    texts = sentences(sight, trace, ONE, OPTIONS)
    assert texts["entropy"] == (
        "entropy fell from 1 to 0.2 nats in 4 steps (20% of the start) while 71% of the groups are dead: set "
        "objective.high=1.28 (clip-higher) or train ttrl+entropy_bonus with a coef of 0.003 or lower descent.lr (now "
        "0.001); see docs/traps.md"
    )
    assert next(iter(texts)) == VERDICT and "held-out pass@16 fell from 1.000 to 0.700 since step 2" in texts[VERDICT]
    assert evidence(sight, trace, ONE) in texts[VERDICT]


def test_every_sign_has_words_and_a_remedy_in_this_runs_options() -> None:
    memory = remembered(records(FALL, EVALS))
    trace = seen(memory, True)
    sight = look(copy.deepcopy(memory), True, ONE)
    assert {"entropy", "coverage", "lock_in"} <= set(sight.new)
    for name in SIGNALS:
        assert len(remedy(name, OPTIONS)) > 10 and "high" not in remedy(name, {**OPTIONS, "objective.high": 1.28})
    for name, text in sentences(sight, trace, ONE, OPTIONS).items():
        assert text.endswith("docs/traps.md") and "{" not in text and "\n" not in text, name
    bonus = {**OPTIONS, "terms.0": "EntropyBonus", "terms.0.coef": 0.001}
    assert "raise terms.0.coef (now 0.001)" in remedy("spent", bonus) and "+entropy_bonus" not in remedy("spent", bonus)
    assert "descent.lr" not in remedy("coverage", {"method": "essa"})


@pytest.mark.parametrize("method", names())
def test_what_a_remedy_tells_to_train_or_to_set_is_there(method: str) -> None:
    options = flatten(make_method(find_method(method))) | {"method": method}
    told = remedy("spent", options)
    if "+entropy_bonus" in told:
        assert make_method(find_method(f"{method}+entropy_bonus"))
    for path in re.findall(r"(?:raise|lower) (\S+) \(now", told):
        assert path in options
    assert told


def test_the_event_holds_the_evidence_as_numbers() -> None:
    memory = remembered(records(FALL, EVALS))
    sight = look(memory, True, ONE)
    got = values(sight, sentences(sight, seen(memory, True), ONE, OPTIONS), memory)
    one = got["signals"]["spent"]
    assert (one["before"], one["now"], one["since"], one["threshold"], one["metric"]) == (1.0, 0.02, 1, 0.1, "entropy")
    assert got[VERDICT] is True and got["open"].keys() >= {"spent", VERDICT} and json.loads(json.dumps(got)) == got


def test_the_law_annotates_what_entropy_can_still_buy() -> None:
    scores = {2: 0.4208, 4: 0.4865, 6: 0.5211, 8: 0.5390, 10: 0.5537}  # of a = .06, b = .62 at these entropies
    column = [h for h in (1.2, 0.8, 0.5, 0.3, 0.1) for _ in range(2)]
    evals = {step: {"pass@1": score, "pass@16": 0.9} for step, score in scores.items()}
    found = bought(traced({"entropy": column}, evals))
    assert found is not None and found[0].ceiling == pytest.approx(0.56, abs=1e-3)
    assert found[1] == ("by R = -a e^H + b the entropy left can still buy 0.006 of held-out pass@1, a plateau at 0.560")
    assert bought(traced({"entropy": column}, dict(list(evals.items())[:4]))) is None, "too few evaluations"
    rising = dict(zip(evals, reversed(list(evals.values())), strict=True))
    assert bought(traced({"entropy": column}, rising)) is None, "no score was bought with entropy"


def test_stopping_without_evaluations_is_told_and_without_looking_refused() -> None:
    assert not stop_notes(asked(0, Watch())) and not stop_notes(asked(5))
    assert "set evaluate.every" in stop_notes(asked(0))[0]
    with pytest.raises(ValueError, match=r"watch\.every=0 looks for none"):
        stop_notes(asked(5, Watch(stop=True, every=0)))


def test_stopping_that_waits_for_evaluations_is_told() -> None:
    never = "stopping at a collapse waits for the first held-out evaluation, of step 50, and the run ends with step 50"
    assert [never in note for note in stop_notes(asked(50))] == [True] and not stop_notes(asked(49))
    assert "second held-out evaluation, of step 10: with evaluate.baseline=true" in stop_notes(asked(5, base=False))[0]
    assert "of step 60, and the run ends with step 50" in stop_notes(asked(30, base=False))[0]
    assert not stop_notes(asked(50, Watch()))
