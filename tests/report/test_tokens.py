"""Which tokens a page counts: those that the policy chose, in responses that it wrote."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rekindle.report.page.tokens import measure, tokens_of
from tests.report.recorded import row, table

FORCED: dict[str, Any] = {"token_entropy": [1.0, 9.0], "token_logp": [-0.5, -7.0], "token_mask": [True, False]}
OTHER: dict[str, Any] = {"uid": 1, "advantage": -1.0, "token_logp": [-1.5, -2.5], "token_entropy": [3.0, 5.0]}


def test_a_token_that_a_rule_forced_is_in_no_number() -> None:
    found = measure(1, table(row(**FORCED)))
    assert found.entropy == 1.0 and found.forking == 1.0 and np.isnan(found.filler)
    assert found.words == {"2": (1.0, 1)} and found.covariance == 0.0
    assert np.nansum(found.positions) == 1.0


def test_the_covariance_and_the_clip_are_over_the_tokens_that_were_chosen() -> None:
    rows = [row(**FORCED, token_ratio=[1.3, 1.0]), row(**OTHER, token_mask=[True, True], token_ratio=[0.7, 1.0])]
    found = measure(1, table(*rows))
    want = np.cov([-0.5, -1.5, -2.5], [1.0, -1.0, -1.0], bias=True)[0, 1]
    assert found.covariance == pytest.approx(want)
    assert found.mass == pytest.approx((1 / 3, 1 / 3))


def test_a_round_without_a_mask_was_chosen_whole() -> None:
    found = measure(1, table(row(**FORCED), row(**OTHER, token_mask=None)))
    assert found.entropy == pytest.approx((1.0 + 3.0 + 5.0) / 3)


def test_a_demonstration_is_not_the_policys() -> None:
    shown = row(uid=1, finish="demonstration", token_logp=[0.0, 0.0], token_entropy=[0.0, 0.0], advantage=2.0)
    found = measure(1, table(row(), shown))
    assert found.entropy == pytest.approx(0.3) and found.covariance == pytest.approx(0.0)
    assert measure(1, table(row(), row(uid=1, finish="eos"))).entropy == pytest.approx(0.3)


@pytest.mark.parametrize("left", ["finish", "success", "advantage"])
def test_columns_that_were_not_recorded_are_no_hindrance(left: str) -> None:
    tokens = tokens_of(table(row(**{left: ...})))
    assert tokens is not None and tokens.entropy is not None and tokens.entropy.tolist() == [0.5, 0.1]
    assert (tokens.advantage is None) == (left == "advantage")
