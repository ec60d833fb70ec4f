"""A short run of the judge against real TRL and verl: the stored verdicts hold, and a wrong flag is seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.judge import page

# The rivals' and their dependencies' own warnings are not ours to fix.
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

STORED = page.load()


@pytest.fixture(scope="module")
def judge() -> Any:
    reason = "TRL and verl together are in the environment of `make judge` only: conformance NOT CHECKED here"
    pytest.importorskip("trl", reason=reason)
    pytest.importorskip("verl", reason=reason)
    from benchmarks.judge import __main__

    return __main__


def test_the_rivals_are_the_stored_ones(judge: Any) -> None:
    assert judge.rivals() == STORED["rivals"]


def test_every_row_is_stored(judge: Any) -> None:
    assert list(judge.rows()) == list(STORED["rows"]), "run `make judge`"


@pytest.mark.parametrize("name", STORED["rows"])
def test_a_row_again(judge: Any, name: str) -> None:
    stored, found = STORED["rows"][name], judge.judged(1, [name])[name]
    for fixed in ("flags", "setting", "kinds", "verdict", "reason"):
        assert found[fixed] == stored[fixed], fixed
    assert found["difference"].keys() == stored["difference"].keys()
    for part, apart in found["difference"].items():
        # Where a rival works in float32, another processor may round otherwise.
        assert apart <= max(1.01 * stored["difference"][part], stored["tolerance"], 1e-6), part


def test_a_wrong_flag_is_seen(judge: Any) -> None:
    rows = judge.rows()
    for right, wrong in (("trl-dapo", "trl-grpo"), ("verl-ppo", "verl-norm"), ("verl-grpo", "verl-rloo")):
        mixed = replace(rows[right], theirs=rows[wrong].theirs, kinds=("ragged",))
        assert judge.judge(mixed, 1)["verdict"] == "differs", (right, wrong)
        assert any("stated equal" in fault for fault in judge.faults({right: judge.judge(mixed, 1)}))
