"""Prioritised prompts: the order of unseen, half-solved and settled ones, and that none starves."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from rekindle.methods import priority
from rekindle.methods.priority import HalfSolvedFirst
from rekindle.tokens.stream import moving_average
from tests.methods.resumed import assert_alike, run_twice
from tests.methods.streams import Stream, table_of, table_run

METHOD = priority.method()


def chosen(history: dict[str, list[float]], count: int, total: int, part: HalfSolvedFirst) -> list[str]:
    run = Stream(total=total)
    run.memory["history"] = history
    return [e.id for e in part(run, count)]


def test_the_rate_is_a_moving_average() -> None:
    assert moving_average([0.25], 0.5) == 0.25
    assert moving_average([0.0, 1.0, 1.0], 0.5) == 0.75 and moving_average([1.0, 0.5, 0.25], 0.5) == 0.5
    assert moving_average([0.0, 0.3, 0.9], 1.0) == pytest.approx(0.9)


def test_unseen_first_then_by_p_times_one_minus_p() -> None:
    history = {"0": [0.9], "1": [0.5], "2": [0.3], "4": [0.8], "5": [1.0]}
    assert chosen(history, 3, 6, HalfSolvedFirst(retest=0.0)) == ["3", "1", "2"]
    assert chosen(history, 5, 6, HalfSolvedFirst(retest=0.0)) == ["3", "1", "2", "4", "0"]
    assert chosen(history, 6, 6, HalfSolvedFirst(retest=0.0))[-1] == "5", "a settled one only where no other is left"


def test_weights_are_equal_on_both_sides_and_ties_go_by_the_stream() -> None:
    history = {"0": [0.75], "1": [0.25], "2": [0.5], "3": [0.75]}
    assert chosen(history, 4, 4, HalfSolvedFirst(retest=0.0)) == ["2", "0", "1", "3"]


def test_a_tenth_is_retested_the_least_visited_first() -> None:
    history = {str(i): [0.5] for i in range(20)} | {"3": [1.0] * 4, "4": [0.0] * 2, "5": [1.0] * 3}
    got = chosen(history, 10, 20, HalfSolvedFirst())
    assert len(got) == 10 and got[0] == "4" and not {"3", "5"} & set(got)
    assert chosen(history, 11, 20, HalfSolvedFirst())[:2] == ["4", "5"]
    assert not {"3", "4", "5"} & set(chosen(history, 10, 20, HalfSolvedFirst(retest=0.0)))


def test_settled_prompts_take_turns() -> None:
    run = Stream(total=12)
    run.memory["history"] = {str(i): [0.5] if i < 6 else [1.0] for i in range(12)}
    seen: Counter[str] = Counter()
    for _ in range(12):
        for example in HalfSolvedFirst()(run, 4):
            seen[example.id] += 1
            run.memory["history"][example.id].append(0.5 if int(example.id) < 6 else 1.0)
    assert [seen[str(i)] for i in range(6, 12)] == [2] * 6


def test_few_prompts_are_taken_more_than_once() -> None:
    assert chosen({}, 5, 2, HalfSolvedFirst()) == ["0", "1", "0", "1", "0"]
    assert chosen({"0": [1.0]}, 3, 1, HalfSolvedFirst()) == ["0"] * 3


@pytest.mark.parametrize("bad", [{"ema": 0.0}, {"retest": 1.5}, {"settled": 0.5}])
def test_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="priorities take"):
        HalfSolvedFirst(**bad)  # type: ignore[arg-type]


def test_same_seed_is_the_same_run_and_memory_is_json() -> None:
    runs = [table_run(METHOD, questions=20) for _ in range(2)]
    for step in range(5):
        for run in runs:
            run.step()
        if step == 2:
            runs[1].memory = json.loads(json.dumps(runs[1].memory))
    assert runs[0].memory == runs[1].memory and (table_of(runs[0]) == table_of(runs[1])).all()
    assert all(visits for visits in runs[0].memory["history"].values()) and len(runs[0].memory["history"]) == 20


def test_a_real_run_resumes(tmp_path: Path) -> None:
    assert_alike(*run_twice("priority", tmp_path))
