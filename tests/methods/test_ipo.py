"""IPO: both forms on paper, the margin it stops at, and DPO in everything but the loss."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rekindle.core.preferences import Squared
from rekindle.errors import InputError
from rekindle.methods import dpo, ipo
from rekindle.train.options import diff, override
from tests.batches import make_batch, make_now
from tests.methods.stage import on_leaves
from tests.methods.test_dpo import told

METHOD = ipo.method()


def test_the_worked_example_summed_and_by_the_token() -> None:
    assert on_leaves(METHOD, *told())[0] == pytest.approx(12.25)
    by_token = METHOD.replace(objective=Squared(length_norm=True))
    assert on_leaves(by_token, *told())[0] == pytest.approx(21.6225)


@pytest.mark.parametrize(("margin", "sign"), [(4.0, -1), (5.0, 0), (6.0, 1)])
def test_beyond_its_margin_it_turns_round(margin: float, sign: int) -> None:
    batch, now = told()
    said = now.logp.clone()
    said[0] += (margin - 1.5) / 4
    _, grad, _ = on_leaves(METHOD, batch, replace(now, logp=said))
    assert grad[0, 0].item() == pytest.approx(2 * sign, abs=1e-9) and grad[1, 0].item() == pytest.approx(
        -2 * sign, abs=1e-9
    )


def test_the_margin_is_1_over_2_tau() -> None:
    batch, now = told()
    exact = override(METHOD, "objective.tau", 1 / 3)
    assert on_leaves(exact, batch, now)[0] == pytest.approx(0.0, abs=1e-15), "1.5 is wanted, and there"


def test_only_the_loss_differs_from_dpo() -> None:
    assert [change.path for change in diff(dpo.method(), METHOD)] == ["objective"]
    batch = make_batch(B=17, ungraded=True)
    now = make_now(batch)
    ours, theirs = on_leaves(METHOD, batch, now)[1], on_leaves(dpo.method(), batch, now)[1]
    assert ((ours != 0) == (theirs != 0)).all() and (ours != 0).any()


def test_tau_is_above_0() -> None:
    with pytest.raises(InputError, match="tau of the squared loss is a number above 0, not 0"):
        override(METHOD, "objective.tau", 0.0)
