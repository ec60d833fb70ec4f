"""A-LoL and its kin: worked numbers, closed-form optima, and what the bounded weight may never do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rekindle.core.leftover import Floored, RatioWeighted
from rekindle.core.likelihood import Likelihood
from rekindle.core.method import PolicyGradient
from rekindle.core.types import Batch, Now
from rekindle.methods import a_lol, gold, r_lol, wbc
from rekindle.tokens.leftover import ByAdvantage, NoBaseline
from tests.batches import hand_batch, make_batch, make_now
from tests.methods.stage import on_leaves, staged

LOGP, REF = torch.tensor([[-0.5, -1.0, -0.2]]).double(), torch.tensor([[-0.9, -1.2, -0.5]]).double()
RECORDS = {
    "a-lol": (a_lol.method(), 0.4, 1.292),
    "unbounded": (a_lol.method().replace(objective=RatioWeighted(eps=None)), 0.4, 1.6725),
    "reference-free": (a_lol.method().replace(objective=RatioWeighted(level="none")), 0.4, 0.68),
    "a token": (a_lol.method().replace(objective=RatioWeighted(level="token")), 0.4, 0.8949),
    "a token, tight": (a_lol.method().replace(objective=RatioWeighted(level="token", eps=0.2)), 0.4, 0.8160),
    "kl": (a_lol.method().replace(objective=RatioWeighted(level="none", beta=0.1)), 0.4, 0.77),
    "wbc": (wbc.method(), 0.9, 1.53),
    "gold": (gold.method(), 0.9, 0.7514),
    "r-lol": (r_lol.method(), 0.9, 2.907),
}


def written(score: float, reference: Tensor = REF) -> tuple[Batch, Now]:
    """One row of three tokens."""
    batch = hand_batch([score], lengths=[3], logp_ref=reference, logp_old=LOGP)
    return batch, Now(logp=LOGP.clone(), entropy=torch.zeros_like(LOGP))


def told(method: PolicyGradient, score: float, reference: Tensor = REF) -> tuple[float, Tensor]:
    """(loss, gradient by log-prob) of that row."""
    batch, now = written(score, reference)
    loss, grad, _ = on_leaves(method, method.credit(batch), now)
    return loss, grad


@pytest.mark.parametrize("case", RECORDS)
def test_worked_numbers(case: str) -> None:
    method, score, loss = RECORDS[case]
    assert told(method, score)[0] == pytest.approx(loss, abs=5e-5)


def test_at_the_start_weights_all_levels_have_one_gradient_and_weights_are_one() -> None:
    grads = [told(a_lol.method().replace(objective=RatioWeighted(level=level)), 0.4, LOGP)[1] for level in LEVELS]
    assert all(torch.equal(grad, torch.full_like(LOGP, -0.4)) for grad in grads)


LEVELS = ("sequence", "token", "none")


def test_kl_lowers_the_advantage_by_beta_and_nothing_else() -> None:
    free, kl = (a_lol.method().replace(objective=RatioWeighted(level="none", beta=beta)) for beta in (0.0, 0.1))
    for score in (0.4, 0.05):
        (low, ours), (plain, theirs) = told(kl, score), told(free, score - 0.1)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-15)
        assert low - plain == pytest.approx(-0.1 * REF.sum().item())
    assert (told(kl, 0.05)[1] > 0).all(), "less than beta is made unlikelier"


def test_the_bound_never_stops_the_gradient() -> None:
    for level in ("sequence", "token"):
        for shift in (-9.0, -1.0, 0.0, 1.0, 9.0, 200.0):
            method = a_lol.method().replace(objective=RatioWeighted(level=level))
            weight = -told(method, 0.4, LOGP - shift)[1] / 0.4
            assert ((weight >= 0.1 - 1e-12) & (weight <= 1.9 + 1e-12)).all()


def test_nothing_is_learned_where_nothing_beats_the_baseline() -> None:
    loss, grad = told(a_lol.method(), 0.0)
    assert loss == 0 and (grad == 0).all()


def test_reference_log_probs_are_asked_for_only_where_they_are_read() -> None:
    free = RatioWeighted(level="none")
    assert free.needs == () and RatioWeighted().needs == RatioWeighted(level="none", beta=0.1).needs
    assert "reference" in a_lol.method().passes() and "reference" not in gold.method().passes()
    assert "reference" not in a_lol.method().replace(objective=free).passes()


def test_rows_off_the_live_ones_say_nothing() -> None:
    batch = make_batch(ungraded=True)
    now = make_now(batch)
    dead = ~batch.live
    dirty = batch.with_columns(logp_ref=batch.column("logp_ref").masked_fill(dead, torch.nan))
    for part in (RatioWeighted(), RatioWeighted(level="token", beta=0.1), Floored()):
        clean, soiled = part(now, batch), part(replace(now, logp=now.logp.masked_fill(dead, torch.inf)), dirty)
        assert torch.equal(clean[0], soiled[0]) and clean[1] == soiled[1] and (clean[0][dead] == 0).all()


def test_gold_learns_between_a_tenth_and_all_of_what_imitation_learns() -> None:
    batch = make_batch()
    batch = batch.with_columns(advantage=torch.ones_like(batch.advantage).where(batch.live, 0.0))
    now = make_now(batch)
    _, plain, _ = on_leaves(wbc.method(), batch, now)
    _, ours, _ = on_leaves(gold.method(), batch, now)
    share = ours[batch.live] / plain[batch.live]
    torch.testing.assert_close(share, now.logp[batch.live].exp().clamp(min=0.1))
    assert share.min() == pytest.approx(0.1) and share.max() <= 1


def test_wbc_of_rewards_of_one_is_imitation_up_to_the_mean() -> None:
    stage, batch = staged("sft", torch.float64, table=True)
    now = stage.policy(batch)
    ones = replace(batch, score=torch.ones_like(batch.score))
    tokens, rows = batch.live.sum(), batch.live_rows.sum()
    _, theirs, _ = on_leaves(stage.method, stage.method.credit(ones), now)
    _, ours, _ = on_leaves(wbc.method(), wbc.method().credit(ones), now)
    torch.testing.assert_close(ours, theirs * tokens / rows)


MU, R, V = (torch.tensor(x, dtype=torch.float64) for x in ((0.4, 0.3, 0.2, 0.1), (0.2, 0.4, 0.6, 1.0), 0.42))


def optimum(method: PolicyGradient, prompts: ByAdvantage, advantage: Tensor) -> float:
    """Expected reward of the policy that minimises the expected loss over what is drawn of four answers."""
    drawn = MU * prompts.weights(advantage, torch.ones(4, dtype=torch.bool))
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    batch = hand_batch([1.0] * 4, logp_old=torch.zeros(4, 1).double(), logp_ref=torch.zeros(4, 1).double())
    batch = batch.with_columns(advantage=advantage[:, None].clamp(min=0 if prompts.filtered else -9))
    optimiser = torch.optim.LBFGS([logits], max_iter=400, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        now = Now(logp=logits.log_softmax(0)[:, None], entropy=torch.zeros(4, 1).double())
        loss = (drawn / drawn.sum() * method.objective(now, batch)[0][:, 0]).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return (logits.detach().softmax(0) * R).sum().item()


def test_closed_form_optima() -> None:
    every = ByAdvantage(baseline=NoBaseline(), strategy="all")
    free = a_lol.method().replace(objective=RatioWeighted(level="none"))
    assert optimum(wbc.method(), every, torch.ones(4).double()) == pytest.approx(0.42, abs=1e-4)
    assert optimum(wbc.method(), every, R) == pytest.approx(0.5619, abs=1e-4)
    assert optimum(free, every, R - V) == pytest.approx(0.8468, abs=1e-4)
    assert optimum(free, ByAdvantage(), R - V) == pytest.approx(0.9354, abs=1e-4)


def test_kin_are_one_record_but_for_what_they_are_named_for() -> None:
    assert (
        isinstance(wbc.method().objective, Likelihood) and gold.method().replace(objective=Likelihood()) == wbc.method()
    )
    assert r_lol.method().replace(objective=Likelihood()) == wbc.method()
    assert a_lol.method().replace(collect=wbc.method().collect) == r_lol.method()


@pytest.mark.parametrize("bad", [{"eps": 1.0}, {"eps": -0.1}, {"beta": -0.1}])
def test_bounds_and_distances_that_make_no_sense_are_told(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not"):
        RatioWeighted(**bad)
    with pytest.raises(ValueError, match="a probability"):
        Floored(floor=1.5)
