"""BAPO: worked shares and searches, plain clipping where the search cannot move, monotone shares, a naive loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rekindle.core.balance import positive_share
from rekindle.core.method import PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.types import Batch, Now
from rekindle.methods import bapo, grpo
from rekindle.methods.bapo import Balanced
from rekindle.tokens.rollouts import Rollouts
from tests.batches import hand_batch, make_batch, make_now, poisoned
from tests.methods.made import group_rollouts
from tests.methods.stage import collected, on_leaves

METHOD = bapo.method()
ADVANTAGE = [1.0, 1, -1, -1, -1, -1, -1, -1]
RATIO = [1.0, 1.62, 1, 0.95, 0.88, 0.7, 0.5, 0.3]
CORNERS = torch.tensor([[0.6, 1.2], [0.9, 1.2], [0.6, 3.0], [0.9, 3.0]], dtype=torch.float64)


def hand() -> tuple[Batch, Now]:
    """Eight rows of one token."""
    logp = torch.tensor(RATIO, dtype=torch.float64).log()[:, None]
    advantage = torch.tensor(ADVANTAGE, dtype=torch.float64)[:, None]
    batch = hand_batch([1.0, 1, 0, 0, 0, 0, 0, 0], logp_old=torch.zeros_like(logp), advantage=advantage)
    return batch, Now(logp=logp, entropy=torch.zeros_like(logp))


def found(part: Balanced, batch: Batch, now: Now) -> tuple[float, float, float]:
    """(c_low, c_high, share) of the search."""
    metrics = part(now, batch)[1]
    return metrics["c_low"][0], metrics["c_high"][0], metrics["share"][0]


def steps(low: float, high: float) -> int:
    return round((high - 1.2) / 0.05) + round((low - 0.6) / 0.02)


@pytest.mark.parametrize(
    ("value", "want"), [(True, [0.3175, 0.2839, 0.3565, 0.3207]), (False, [0.2208, 0.3390, 0.4260, 0.5733])]
)
def test_worked_shares(value: bool, want: list[float]) -> None:
    ratio, advantage = torch.tensor(RATIO, dtype=torch.float64), torch.tensor(ADVANTAGE, dtype=torch.float64)
    assert positive_share(ratio, advantage, CORNERS, value).tolist() == pytest.approx(want, abs=5e-5)
    official = positive_share(ratio, advantage, torch.tensor([[0.8, 2.0]], dtype=torch.float64), value=True)
    assert (official / (1 - official)).item() == pytest.approx(0.501, abs=5e-4)


def test_worked_search() -> None:
    low, high, share = found(Balanced(), *hand())
    assert (low, high, share) == pytest.approx((0.6, 1.65, 0.4260), abs=5e-5) and steps(low, high) == 9
    low, high, share = found(Balanced(metric="value"), *hand())
    assert (low, high, share) == pytest.approx((0.9, 3.0, 0.3207), abs=5e-5) and steps(low, high) == 51
    assert len(Balanced().path()) == 52


def naive(part: Balanced, batch: Batch, now: Now) -> tuple[float, float]:
    """The search as printed, one share at a time; integer counters."""
    ratio, a = (now.logp - batch.logp_old).exp()[batch.live], batch.advantage[batch.live]

    def share(low: float, high: float) -> float:
        plus = sum(r * x for r, x in zip(ratio.tolist(), a.tolist(), strict=True) if x > 0 and r < high)
        minus = sum(-r * x for r, x in zip(ratio.tolist(), a.tolist(), strict=True) if x < 0 and r > low)
        return plus / (plus + minus) if plus + minus else 1.0

    i = j = 0

    def bounds() -> tuple[float, float]:
        return part.low + j * part.low_step, part.high + i * part.high_step

    while share(*bounds()) < part.target and part.low + (j + 1) * part.low_step <= part.low_end + 1e-9:
        if part.high + (i + 1) * part.high_step <= part.high_end + 1e-9:
            i += 1
        else:
            j += 1
    return bounds()


@pytest.mark.parametrize("target", [0.0, 0.3, 0.4, 0.5, 0.55, 0.6, 0.7, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_against_the_naive_search(target: float, seed: int) -> None:
    batch = make_batch(B=20, T=8, seed=seed, ungraded=True)
    now = make_now(batch, seed, requires_grad=False, spread=0.6)
    part = Balanced(target=target)
    assert found(part, batch, now)[:2] == pytest.approx(naive(part, batch, now), abs=1e-12)


def test_the_share_rises_with_both_bounds_and_as_printed_falls_with_the_lower() -> None:
    batch = make_batch(B=20, T=8, seed=1)
    now = make_now(batch, 1, requires_grad=False, spread=0.6)
    ratio, a = (now.logp - batch.logp_old).exp().where(batch.live, 1.0), batch.advantage
    low = torch.linspace(0.6, 0.9, 40, dtype=torch.float64)
    high = torch.linspace(1.2, 3.0, 40, dtype=torch.float64)
    by_low = torch.stack([low, torch.full_like(low, 1.2)], dim=1)
    by_high = torch.stack([torch.full_like(high, 0.6), high], dim=1)

    def change(bounds: Tensor, value: bool) -> Tensor:
        return positive_share(ratio, a, bounds, value).diff()

    assert (change(by_low, False) >= -1e-12).all() and (change(by_high, False) >= -1e-12).all()
    assert (change(by_high, True) >= -1e-12).all() and (change(by_low, True) <= 1e-12).all()
    assert (change(by_low, True) < 0).any() and (change(by_low, False) > 0).any()


def same_as_clip(method: PolicyGradient, low: float, high: float) -> bool:
    plain = grpo.method().replace(objective=Clip(low=low, high=high, dual=None))
    rollouts = Rollouts.concat([group_rollouts(g) for g in (2, 5, 6)])
    (stage, ours), (_, theirs) = collected(method, rollouts), collected(plain, rollouts)
    now = stage.policy(ours).detach()
    got, want = on_leaves(method, ours, now), on_leaves(plain, theirs, now)
    return got[0] == want[0] and torch.equal(got[1], want[1]) and bool((want[1] != 0).any())


def test_where_the_search_cannot_move_it_is_the_clipped_surrogate() -> None:
    fixed = METHOD.replace(objective=Balanced(low=0.8, low_end=0.8, high=1.28, high_end=1.28))
    assert same_as_clip(fixed, 0.8, 1.28)
    assert same_as_clip(METHOD.replace(objective=Balanced(target=0.0)), 0.6, 1.2)
    stuck = METHOD.replace(objective=Balanced(low=0.8, low_end=0.8, target=1.0))
    assert same_as_clip(stuck, 0.8, 1.2), "as printed: the upper bound waits for the lower one"
    wide = METHOD.replace(objective=Balanced(target=1.0))
    assert same_as_clip(wide, 0.6 + 15 * 0.02, 1.2 + 36 * 0.05)


def test_without_wrong_answers_and_on_policy_there_is_nothing_to_search() -> None:
    batch, now = hand()
    right = batch.with_columns(advantage=batch.advantage.abs())
    assert found(Balanced(), right, now) == (0.6, 1.2, 1.0)
    nothing = batch.with_columns(advantage=torch.zeros_like(batch.advantage))
    assert found(Balanced(), nothing, now) == (0.6, 1.2, 1.0)
    full = make_batch()
    same = Now(logp=full.logp_old, entropy=torch.zeros_like(full.logp_old))
    got, want = on_leaves(METHOD, full, same), on_leaves(grpo.method(), full, same)
    assert got[0] == pytest.approx(want[0], abs=1e-12)
    torch.testing.assert_close(got[1], want[1], rtol=0, atol=1e-12)


def test_bounds_belong_to_the_minibatch_and_dead_positions_to_none() -> None:
    batch = make_batch(B=20, T=8, seed=2, ungraded=True)
    now = make_now(batch, 2, spread=0.6)
    want = found(Balanced(target=0.55), batch, now)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    moved = Now(logp=now.logp[order], entropy=now.entropy[order])
    assert found(Balanced(target=0.55), batch.take(order), moved) == pytest.approx(want)
    dirty, clean = on_leaves(METHOD, *poisoned(batch, now)), on_leaves(METHOD, batch, now)
    assert dirty[0] == clean[0] and torch.equal(dirty[1], clean[1])
    none = replace(batch, graded=torch.zeros(20, dtype=torch.bool))
    assert on_leaves(METHOD, none, now)[0] == 0.0


@pytest.mark.parametrize("bad", [{"target": 1.5}, {"low": 0.95}, {"high": 0.9}, {"low_step": 0.0}, {"high_end": 1.0}])
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="BAPO takes 0 <= low"):
        Balanced(**bad)
