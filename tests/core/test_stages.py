"""Stages: the right method at every share of the run, with its schedules over its own share."""

from __future__ import annotations

import pytest

from rekindle.core.schedules import Linear
from rekindle.core.stages import Stages
from rekindle.core.terms import EntropyBonus
from rekindle.core.types import LOGP_OLD, LOGP_REF
from rekindle.methods import grpo, ppo_clip, ttrl

BONUS = EntropyBonus(coef=0.1)


def with_rate(rate: object):
    method = grpo.method()
    return method.replace(descent=type(method.descent)(lr=rate))


TWO = Stages(methods=(with_rate(Linear(1.0, 3.0)), with_rate(Linear(10.0, 20.0))), until=(0.4, 1.0))


@pytest.mark.parametrize(
    ("progress", "rate"), [(0.0, 1.0), (0.2, 2.0), (0.39999, 2.99995), (0.4, 10.0), (0.7, 15.0), (1.0, 20.0)]
)
def test_each_stage_has_its_share_and_its_own_schedule(progress: float, rate: float) -> None:
    assert TWO.at(progress).descent.lr == pytest.approx(rate)


def test_one_stage_is_its_method() -> None:
    method = ttrl.method()
    assert Stages(methods=(method,), until=(1.0,)).at(0.3) == method.at(0.3)


def test_needs_are_those_of_all_stages() -> None:
    both = Stages(methods=(grpo.method(), ttrl.method()), until=(0.5, 1.0))
    assert both.needs() == (LOGP_OLD, LOGP_REF)
    assert both.at(0.2).needs() == (LOGP_OLD,)


def test_what_comes_after_the_end_takes_no_step_but_says_what_it_needs() -> None:
    never = Stages(methods=(grpo.method(), ttrl.method()), until=(1.0, 1.0))
    assert never.at(1.0) == never.at(0.5) == grpo.method() and never.needs() == (LOGP_OLD, LOGP_REF)


def test_a_change_is_made_to_each() -> None:
    changed = TWO.each(lambda method: method.replace(terms=(BONUS,)))
    assert [m.terms for m in changed.methods] == [(BONUS,)] * 2 and changed.until == TWO.until
    assert grpo.method().each(lambda method: method.replace(terms=(BONUS,))).terms == (BONUS,)


def test_heads_are_those_of_all_stages() -> None:
    both = Stages(methods=(grpo.method(), ppo_clip.method(), ppo_clip.method()), until=(0.2, 0.5, 1.0))
    assert both.heads() == ppo_clip.method().heads() != ()


@pytest.mark.parametrize("until", [(), (0.5,), (0.5, 0.9), (0.5, 0.5), (0.0, 1.0), (1.0, 0.5), (1.2, 1.0), (-0.1, 1.0)])
def test_ends_that_cannot_be(until: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"stages|ends"):
        Stages(methods=(grpo.method(), grpo.method()), until=until)
