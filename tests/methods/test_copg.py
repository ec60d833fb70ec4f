"""CoPG on paper: three forms with one gradient, RLOO on-policy, IPO as a special case, no gradient at the optimum."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from rekindle.core.contrast import Contrastive
from rekindle.core.method import PolicyGradient
from rekindle.core.types import Batch, Now
from rekindle.errors import InputError
from rekindle.methods import copg, ipo, rloo
from rekindle.tokens.offline import ScoredCompletions
from rekindle.train.find import find_method, make_method
from rekindle.train.options import diff, override
from tests.batches import hand_batch, make_batch, make_now
from tests.methods.stage import on_leaves

METHOD = copg.method()
REWARDS = torch.tensor([2.5, 2.0, 1.0], dtype=torch.float64)
FORMS = ("regression", "full", "detached")


def formed(form: Any, beta: float = 0.5, **changes: Any) -> PolicyGradient:
    return METHOD.replace(objective=Contrastive(form=form, beta=beta, **changes))


def bandit(logits: Tensor, arms: list[int], rewards: Tensor = REWARDS) -> tuple[Batch, Tensor]:
    """One-token responses `arms` to one prompt under a uniform reference, and their log-probs [B 1], with gradient."""
    logp = torch.log_softmax(logits, dim=0)[torch.tensor(arms)][:, None]
    ref = torch.full_like(logp, 1 / 3).log().detach()
    batch = hand_batch(rewards[torch.tensor(arms)].tolist(), logp_ref=ref)
    return replace(batch, action=torch.tensor(arms)[:, None]), logp


def slope(
    method: PolicyGradient, logits: list[float], arms: list[int], rewards: Tensor = REWARDS
) -> tuple[float, Tensor]:
    """(loss, its gradient on the logits)."""
    leaf = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    batch, logp = bandit(leaf, arms, rewards)
    loss, _ = method.loss(Now(logp=logp, entropy=torch.zeros_like(logp)), method.weigh(batch))
    return loss.item(), torch.autograd.grad(loss, leaf)[0]


def test_the_worked_example() -> None:
    loss, grad = slope(formed("full"), [0.3, -0.2, 0.1], [0, 2])
    assert loss == pytest.approx(-0.29)
    assert grad.tolist() == pytest.approx([-1.4, 0, 1.4]), "the ascent gradient is 1.4 on the better arm"
    assert slope(formed("detached"), [0.3, -0.2, 0.1], [0, 2])[0] == pytest.approx(-1.4 * 0.2)
    loss, _ = slope(formed("regression"), [0.3, -0.2, 0.1], [0, 2])
    assert loss == pytest.approx(1.4**2) and loss == pytest.approx(1.5**2 / (2 * 0.5) - 0.29), "but for a constant"


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_have_one_gradient_also_for_many_responses(form: str) -> None:
    batch = make_batch(B=17, shaped=True, ungraded=True)
    now = make_now(batch)
    _, want, _ = on_leaves(formed("full", 0.3), batch, now)
    _, got, _ = on_leaves(formed(form, 0.3), batch, now)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-14)
    assert (want != 0).any()


def pairwise(batch: Batch, h: Tensor, beta: float) -> Tensor:
    """The mean over prompts of the sum over pairs / (n - 1) of (R_beta - R_beta')^2 / (2 beta), pair by pair."""
    regularised, found = batch.score - beta * h, []
    for g in batch.group.unique():
        rows = ((batch.group == g) & batch.live_rows).nonzero()[:, 0].tolist()
        gaps = [(regularised[i] - regularised[j]) ** 2 for i, j in combinations(rows, 2)]
        found += [torch.stack(gaps).sum() / (len(rows) - 1) / (2 * beta)] if gaps else []
    return torch.stack(found).mean()


def test_in_o_of_n_it_is_the_sum_over_pairs() -> None:
    batch = make_batch(B=17, shaped=True, ungraded=True)
    now, beta = make_now(batch), 0.3
    leaf = now.logp.detach().clone().requires_grad_()
    h = ((leaf - batch.column("logp_ref")) * batch.live).sum(dim=1)
    want = pairwise(batch, h, beta)
    loss, grad, _ = on_leaves(formed("regression", beta), batch, now)
    assert loss == pytest.approx(want.item(), rel=1e-12)
    torch.testing.assert_close(grad, torch.autograd.grad(want, leaf)[0], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_swaps_shifts_of_rewards_and_of_log_ratios_are_invisible(form: str) -> None:
    method, logits = formed(form), [0.3, -0.2, 0.1]
    loss, grad = slope(method, logits, [0, 2])
    for arms, rewards in (([2, 0], REWARDS), ([0, 2], REWARDS + 1e3)):
        again, same = slope(method, logits, arms, rewards)
        assert again == pytest.approx(loss, abs=1e-10)
        torch.testing.assert_close(same, grad, rtol=0, atol=1e-10)
    batch = make_batch(shaped=True)
    now = make_now(batch)
    per_row = (1.0 + batch.group.double()) / batch.live.sum(dim=1)
    shifted = batch.with_columns(logp_ref=batch.column("logp_ref") + per_row[:, None])
    here, there = on_leaves(method, batch, now), on_leaves(method, shifted, now)
    assert there[0] == pytest.approx(here[0], rel=1e-9)
    torch.testing.assert_close(there[1], here[1], rtol=1e-9, atol=1e-11)


def test_the_optimum_of_the_bandit_has_no_gradient_in_any_pair() -> None:
    best = torch.softmax(REWARDS / 0.5, dim=0)
    assert best.tolist() == pytest.approx([0.70538, 0.25950, 0.03512], abs=5e-6)
    for form in FORMS:
        for arms in ([0, 1], [0, 2], [1, 2], [0, 1, 2]):
            _, grad = slope(formed(form), best.log().tolist(), arms)
            assert grad.abs().max() < 1e-12
    _, biased = slope(formed("plain"), best.log().tolist(), [0, 1])
    assert biased.abs().max() > 0.1, "without a baseline the optimum is another"


@pytest.mark.parametrize("form", FORMS)
def test_on_the_policys_own_responses_it_is_rloo_with_the_kl_in_the_reward(form: str) -> None:
    batch = make_batch(B=12, shaped=True)
    now = make_now(batch)
    h = ((now.logp.detach() - batch.column("logp_ref")) * batch.live).sum(dim=1)
    charged = rloo.method().credit(replace(batch, score=batch.score - 0.3 * h))
    want = -charged.advantage * batch.live / len(batch.group.unique())
    _, got, _ = on_leaves(formed(form, 0.3), batch, now)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)


def test_two_fixed_rewards_are_ipo() -> None:
    tau = 0.3
    batch = make_batch(B=8)
    batch = replace(batch, group=torch.arange(8) // 2, score=torch.tensor([0.25, -0.25] * 4, dtype=torch.float64))
    now = make_now(batch)
    square = override(ipo.method(), "objective.tau", tau)
    loss, theirs, _ = on_leaves(square, batch, now)
    mine, ours, _ = on_leaves(formed("regression", tau), batch, now)
    torch.testing.assert_close(ours, tau / 2 * theirs, rtol=1e-11, atol=1e-14)
    assert mine == pytest.approx(tau / 2 * loss)


def test_equal_rewards_pull_responses_together_but_teach_nothing() -> None:
    same = torch.ones(3, dtype=torch.float64)
    _, grad = slope(formed("regression"), [0.3, -0.2, 0.1], [0, 2], same)
    assert grad[0] > 0 > grad[2], "the likelier one is lowered"
    batch, _ = bandit(torch.zeros(3, dtype=torch.float64), [0, 2], same)
    assert METHOD.signal(METHOD.credit(batch)) == (0.0, 2.0)


def test_one_response_is_skipped_and_so_is_its_prompt() -> None:
    alone, _ = bandit(torch.zeros(3, dtype=torch.float64), [1])
    now = Now(logp=torch.full((1, 1), -1.0, dtype=torch.float64), entropy=torch.zeros(1, 1))
    for form in (*FORMS, "plain"):
        loss, grad, _ = on_leaves(formed(form), alone, now)
        assert loss == 0 and (grad == 0).all()


def test_length_norm_takes_means_over_tokens() -> None:
    ref = torch.full((2, 4), -1.0, dtype=torch.float64)
    batch = hand_batch([1.0, 0.0], [4, 2], logp_ref=ref)
    now = Now(logp=ref + torch.tensor([[0.4], [0.1]]), entropy=torch.zeros_like(ref))
    loss, _, _ = on_leaves(formed("regression", 1.0), batch, now)
    assert loss == pytest.approx((1 - (1.6 - 0.2)) ** 2 / 2)
    loss, _, _ = on_leaves(formed("regression", 1.0, length_norm=True), batch, now)
    assert loss == pytest.approx((1 - 0.3) ** 2 / 2)


def test_beta_0_needs_another_form_and_is_the_policy_gradient_then() -> None:
    with pytest.raises(InputError, match="set form=detached before beta=0"):
        override(METHOD, "objective.beta", 0.0)
    free = override(override(METHOD, "objective.form", "detached"), "objective.beta", 0)
    _, grad = slope(free, [0.3, -0.2, 0.1], [0, 2])
    assert grad.tolist() == pytest.approx([-1.5, 0, 1.5])
    with pytest.raises(InputError, match="beta is the weight of the KL in the reward, 0 or more"):
        override(METHOD, "objective.beta", -1.0)


def test_its_responses_come_with_the_data_or_by_name_from_the_policy() -> None:
    collect: Any = METHOD.collect
    assert isinstance(collect.draw, ScoredCompletions)
    found = make_method(find_method(f"{copg.__file__}:on_policy"))
    assert isinstance(found, PolicyGradient)
    assert [change.path for change in diff(rloo.method(), found)] == [
        "objective",
        "aggregate",
        "descent.minibatches",
        "descent.weight_decay",
    ]
