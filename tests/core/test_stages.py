"""Stages: the right method at every share of the run, with its schedules over its own share."""

from __future__ import annotations

import pytest

from rekindle.core.schedules import Linear
from rekindle.core.stages import Stages
from rekindle.core.types import LOGP_OLD, LOGP_REF
from rekindle.methods import grpo, ttrl


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


@pytest.mark.parametrize("until", [(), (0.5,), (0.5, 0.9), (0.5, 0.5, 1.0), (0.0, 1.0), (1.0, 0.5)])
def test_ends_that_cannot_be(until: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"stages|ends"):
        Stages(methods=(grpo.method(), grpo.method()), until=until)
