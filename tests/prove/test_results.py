"""Verdicts from numbers, the store, and its page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rekindle.core.method import Effect
from rekindle.prove.results import Row, effect_of, experiment, judge, load, plain, store

UP = Row(
    claim="more", bed="digits", metric="entropy", more=True, against="grpo", seeds=[0, 1, 2],
    ours=[0.30, 0.32, 0.31], theirs=[0.20, 0.21, 0.22],
)  # fmt: skip


def test_the_sign_of_the_claim_turns_the_verdict() -> None:
    less = replace(UP, more=False)
    assert (judge(UP).verdict, judge(less).verdict) == ("shown", "opposite")
    swapped = replace(less, ours=UP.theirs, theirs=UP.ours)
    assert judge(swapped).verdict == "shown"
    assert judge(swapped).mean == pytest.approx(-0.1)


def test_one_seed_of_the_other_sign_is_enough_to_deny() -> None:
    mixed = replace(UP, ours=[0.5, 0.5, 0.19], theirs=[0.1, 0.1, 0.2])
    assert judge(mixed).verdict == judge(replace(mixed, more=False)).verdict == "not shown"


def test_equality_counts_the_bound() -> None:
    close = replace(UP, ours=[0.50, 0.51, 0.52], theirs=[0.51, 0.50, 0.52])
    found = judge(replace(close, within=0.05))
    assert found.verdict == "shown" and abs(found.mean) + found.bound <= 0.05
    assert judge(replace(close, within=found.bound * 0.9)).verdict == "not shown"
    assert judge(replace(UP, within=0.09)).verdict == "not shown"
    assert judge(replace(UP, within=0.5)).verdict == "shown"


def test_two_equal_constants_show_equality_and_no_difference() -> None:
    same = replace(UP, theirs=UP.ours)
    assert judge(same).verdict == "not shown"
    assert judge(replace(same, within=0.0)).verdict == "shown"


def test_the_store_gives_back_what_was_put_in(tmp_path: Path) -> None:
    path = tmp_path / "effects.json"
    assert load(path) == {} and effect_of("b", path) == "-"
    rows = [replace(UP, options={"keep.0.share": 0.2}).judged(), replace(UP, more=False).judged()]
    store("b", rows, path)
    store("a", [UP.judged()], path)
    assert load(path) == {"a": [UP.judged()], "b": rows}
    assert list(load(path)) == ["a", "b"]
    store("b", [], path)
    assert list(load(path)) == ["a"]


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["shown"], "shown"),
        (["shown", "shown"], "shown"),
        (["shown", "not shown", "shown"], "shown (2 of 3)"),
        (["shown", "opposite"], "shown (1 of 2)"),
        (["opposite"], "opposite"),
        (["not shown", "opposite"], "not shown"),
        (["not shown"], "not shown"),
    ],
)
def test_the_effect_in_a_word_or_two(tmp_path: Path, verdicts: list[str], said: str) -> None:
    path = tmp_path / "effects.json"
    store("m", [replace(UP, verdict=v) for v in verdicts], path)
    assert effect_of("m", path) == said


def test_an_experiment_names_its_opponent() -> None:
    effect = Effect(claim="c", bed="digits", metric="m", options={"x": (1, 2)})
    assert experiment(effect, "grpo")["against"] == "grpo"
    assert experiment(replace(effect, against=""), "grpo")["against"] == ""
    assert experiment(effect, "grpo")["options"] == {"x": [1, 2]}
    assert plain((1, (2,))) == [1, [2]]
