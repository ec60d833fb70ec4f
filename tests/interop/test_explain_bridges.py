"""The bridges that `explain` names hold the method: every one is asked, by what refuses in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rekindle import methods
from rekindle.core.schedules import Linear
from rekindle.core.terms import EntropyBonus
from rekindle.errors import InputError
from rekindle.interop.explain.answer import explain
from rekindle.interop.explain.bridged import SLOTS
from rekindle.interop.explain.said import Lacking
from rekindle.interop.trl.fitting import record_of, refuse_parts
from rekindle.interop.trl.rewards import GroupReward
from rekindle.interop.verl import register
from rekindle.train.config import Resolved
from tests.interop.records import resolved

NAMED = {"trl": "rekindle.interop.trl.RekindleTrainer(method={!r})", "verl": "rekindle.interop.verl.register({!r})"}


def into_trl(name: str) -> None:
    """What the trainer refuses, given a reference and the method's own score; the score is asked for one."""
    record = record_of(name)
    collect: Any = record.collect
    wanted = vars(collect).get("shape") or collect.label.votes
    reward = GroupReward(label=collect.label, shape=collect.shape) if wanted else None
    refuse_parts(record, [reward], reference=True)
    if reward:
        assert reward(["?"] * 3, ["1", "2", "1 2"])


PUT: dict[str, Callable[[str], object]] = {"trl": into_trl, "verl": register}


def refused(rival: str, name: str) -> bool:
    try:
        PUT[rival](name)
    except (InputError, AttributeError):
        return True
    return False


def lacks(run: Resolved, rival: str) -> list[Lacking]:
    """What the slots lack that a bridge could carry."""
    found = explain(run, rival).said.lacking
    return [lack for lack in found if lack.path.removeprefix("methods.0.").partition(".")[0] in SLOTS]


def test_every_method_of_the_shelf_goes_over_every_bridge_that_is_named_for_it(algos: Any) -> None:
    """Where a bridge refuses it, a run of ours is named."""
    tally: dict[tuple[str, bool], int] = {}
    for rival, shown in NAMED.items():
        for name in methods.names():
            found = lacks(resolved(name), rival)
            if not found:
                continue
            gone = refused(rival, name)
            tally[rival, gone] = tally.get((rival, gone), 0) + 1
            told = f"rekindle train {name}" if gone else shown.format(name)
            assert {lack.bridge for lack in found} == {told}, (rival, name)
    assert min(tally.values()) >= 5 and len(tally) == 4, tally


@pytest.mark.parametrize(
    ("name", "rival", "told"),
    [
        ("dpo", "verl", "rekindle train dpo"),
        ("forking_tokens", "verl", "rekindle train forking_tokens"),
        ("remix", "trl", "rekindle train remix"),
        ("remax", "trl", "rekindle train remax"),
        ("srt", "trl", "rekindle.interop.trl.RekindleTrainer(method='srt')"),
        ("maxrl", "verl", "rekindle.interop.verl.register('maxrl')"),
        ("maxrl+entropy_bonus", "trl", "rekindle.interop.trl.RekindleTrainer(method='maxrl+entropy_bonus')"),
        ("maxrl+entropy_bonus", "verl", "rekindle train maxrl+entropy_bonus"),
    ],
)
def test_what_does_it(name: str, rival: str, told: str) -> None:
    assert {lack.bridge for lack in lacks(resolved(name), rival)} == {told}


def test_the_record_is_asked_as_it_was_changed() -> None:
    run = resolved("maxrl")
    moving = replace(
        run, record=run.record.each(lambda record: record.replace(terms=(EntropyBonus(coef=Linear(1.0, 0.0)),)))
    )
    assert {lack.bridge for lack in lacks(moving, "verl")} == {"rekindle train maxrl"}, "verl follows no schedule"
