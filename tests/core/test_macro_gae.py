"""Advantages over macro actions: the worked example to its digits, and what holds for every cut."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from rekindle.core.gae import OverValue, Returns
from rekindle.core.macro import FixedMacros, PerplexityMacros, RandomMacros
from rekindle.core.macro_gae import MacroReturns, OverMacroValue, Sigma, sigma_weights
from rekindle.core.returns import ClippedScore, KLInReward
from rekindle.core.types import Batch
from tests.batches import hand_batch, make_batch, make_now, pad, poisoned

SIGMAS: tuple[Sigma, ...] = get_args(Sigma)
VALUES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
CHARGED = [0.1, 0.0, 0.2, 0.0, 0.1, 0.0, 0.0]
PARTS = [0, 0, 0, 1, 1, 1, 2]


def row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def worked(macro: list[int] = PARTS, score: float = 1.0) -> Batch:
    """The published example: seven values, a KL charged at 0.05, a score of 1 at the end."""
    batch = hand_batch([score], [7], value_old=row(VALUES), logp_old=row(CHARGED), logp_ref=row([0.0] * 7))
    return KLInReward(coef=0.05)(batch.with_columns(macro=torch.tensor([macro])))


def by_part(batch: Batch, column: Tensor) -> list[float]:
    """One number a macro action, the same on all its tokens."""
    macro, found = batch.column("macro")[0], []
    for number in range(int(macro.max()) + 1):
        inside = column[0][macro == number]
        assert len(inside) and (inside == inside[0]).all(), "the tokens of a macro action share it"
        found.append(inside[0].item())
    return found


def credited(batch: Batch, **options: Any) -> tuple[list[float], list[float]]:
    """(advantages, returns) by macro action."""
    done = MacroReturns(**options)(batch)
    return by_part(done, OverMacroValue()(done)), by_part(done, done.column("returns"))


def test_the_worked_example_by_sums() -> None:
    advantage, returns = credited(worked())
    assert advantage == pytest.approx([0.7410, 0.4800, 0.3000], abs=5e-5)
    assert returns == pytest.approx([0.941, 0.980, 1.0], abs=5e-4)
    value = MacroReturns()(worked())
    assert by_part(value, value.column("value_macro")) == pytest.approx([0.2, 0.5, 0.7])


def test_the_worked_example_by_means() -> None:
    advantage, _ = credited(worked(), reward="mean")
    assert advantage == pytest.approx([0.7542, 0.4833, 0.3000], abs=5e-5)
    done = MacroReturns(reward="mean")(worked())
    assert done.column("macro")[0].tolist() == PARTS, "no empty macro action beside the last token"
    assert advantage != pytest.approx([0.7074, 0.4341, 0.3], abs=1e-3), "what an empty one would give"


def test_the_worked_example_by_tokens() -> None:
    want = [0.7322, 0.6708, 0.6008, 0.5377, 0.4607, 0.3850, 0.3000]
    batch = FixedMacros(n=1)(worked())
    assert credited(batch)[0] == pytest.approx(want, abs=5e-5)
    assert credited(batch, reward="mean")[0] == pytest.approx(want, abs=5e-5), "a mean of one is a sum"


def test_means_have_the_last_token_apart_wherever_it_was() -> None:
    for n in (1, 2, 3, 4, 5, 6, 7, None):
        done = MacroReturns(reward="mean")(FixedMacros(n=n)(worked()))
        sizes = done.column("macro")[0].bincount().tolist()
        assert sum(sizes) == 7 and min(sizes) > 0 and sizes[-1] == 1
        assert by_part(done, done.column("returns"))[-1] == pytest.approx(1.0), "the score is whole"
    assert MacroReturns()(FixedMacros(n=None)(worked())).column("macro").max() == 0
    assert MacroReturns(last_alone=True)(FixedMacros(n=None)(worked())).column("macro").max() == 1


@pytest.mark.parametrize(
    ("sigma", "want"),
    [
        ("equal", [1 / 3, 1 / 3, 1 / 3, 0.5, 0.5]),
        ("unit", [0, 0, 1, 0, 1]),
        ("position", [6 / 11, 3 / 11, 2 / 11, 2 / 3, 1 / 3]),
        ("start", [1, 0, 0, 1, 0]),
    ],
)
def test_weights_of_a_macro_action(sigma: Any, want: list[float]) -> None:
    macro = torch.tensor([[0, -1, 0, 0, 1, -1, 1, -1]])
    got = sigma_weights(macro, sigma, torch.float64)[0]
    assert got[macro[0] >= 0].tolist() == pytest.approx(want) and (got[macro[0] < 0] == 0).all()


def test_values_by_other_weights() -> None:
    found = {sigma: MacroReturns(sigma=sigma)(worked()) for sigma in SIGMAS}
    values = {sigma: by_part(done, done.column("value_macro")) for sigma, done in found.items()}
    assert values["unit"] == pytest.approx([0.3, 0.6, 0.7]) and values["start"] == pytest.approx([0.1, 0.4, 0.7])
    assert values["position"][0] == pytest.approx((0.1 + 0.2 / 2 + 0.3 / 3) / (1 + 1 / 2 + 1 / 3))


@pytest.mark.parametrize(("options", "n", "share"), [({}, 1, 99), ({}, 5, 19), ({"last_alone": True}, 5, 20)])
def test_how_much_of_a_score_reaches_the_first_of_a_hundred_tokens(options: dict, n: int, share: int) -> None:
    zeros = torch.zeros(1, 100, dtype=torch.float64)
    batch = hand_batch([1.0], [100], value_old=zeros, logp_old=zeros, logp_ref=zeros)
    first = credited(FixedMacros(n=n)(KLInReward(coef=0.05)(batch)), **options)[0][0]
    assert first == pytest.approx(0.95**share)
    assert first == pytest.approx({99: 0.0062, 19: 0.377, 20: 0.358}[share], abs=5e-4)


def valued(seed: int = 1, **options: bool) -> Batch:
    batch = make_batch(B=20, T=17, seed=seed, shaped=True, **options)
    rng = torch.Generator().manual_seed(seed)
    value = torch.randn(batch.mask.shape, generator=rng, dtype=torch.float64)
    return KLInReward(coef=0.1)(batch.with_columns(value_old=value))


def test_with_one_token_each_these_are_the_advantages_over_tokens_bit_for_bit() -> None:
    batch = valued(ungraded=True)
    batch = batch.with_columns(reward=KLInReward(coef=0.0)(batch).column("reward"))
    ours, theirs = MacroReturns()(FixedMacros(n=1)(batch)), Returns()(batch)
    assert torch.equal(ours.column("returns"), theirs.column("returns"))
    for whiten in (False, True):
        assert torch.equal(OverMacroValue(whiten=whiten)(ours), OverValue(whiten=whiten)(theirs))


def test_one_macro_action_a_row_is_a_bandit() -> None:
    batch = valued(ungraded=True)
    done = MacroReturns(lam=0.5)(FixedMacros(n=None)(batch))
    total, value = (batch.column(name).where(batch.live, 0.0).sum(dim=1) for name in ("reward", "value_old"))
    want = (total - value / batch.live.sum(dim=1).clamp(min=1))[:, None].where(batch.live, 0.0)
    torch.testing.assert_close(OverMacroValue()(done), want, rtol=1e-12, atol=1e-12)


RULES = (FixedMacros(n=1), FixedMacros(n=4), FixedMacros(n=None), RandomMacros(lengths=(1, 3)), PerplexityMacros())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_a_constant_value_and_one_reward_at_the_end_give_the_same_everywhere(rule: Any, sigma: Any) -> None:
    batch = valued()
    flat = batch.with_columns(value_old=torch.full_like(batch.logp_old, 0.3))
    flat = KLInReward(coef=0.0)(flat)
    done = MacroReturns(lam=1.0, sigma=sigma)(rule(flat))
    want = (batch.score - 0.3)[:, None].where(batch.live, 0.0)
    torch.testing.assert_close(OverMacroValue()(done), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("options", [{}, {"reward": "mean"}, {"last_alone": True}, {"sigma": "position"}])
def test_against_a_slow_loop(rule: Any, options: dict[str, Any]) -> None:
    batch = rule(valued(seed=6, ungraded=True))
    done = MacroReturns(gamma=0.97, lam=0.9, **options)(batch)
    advantage, macro = OverMacroValue()(done), done.column("macro")
    for b in range(len(batch)):
        places = [t for t in range(17) if batch.live[b, t]]
        parts = [[t for t in places if macro[b, t] == j] for j in range(len(places))]
        parts = [part for part in parts if part]
        v = [mean(batch.column("value_old")[b], part, options) for part in parts] + [0.0]
        total = [batch.column("reward")[b][part].sum().item() for part in parts]
        if options.get("reward") == "mean":
            total = [mean(batch.column("reward")[b], part, options) for part in parts]
        ahead = 0.0
        for j in reversed(range(len(parts))):
            ahead = total[j] + 0.97 * v[j + 1] - v[j] + 0.97 * 0.9 * ahead
            assert advantage[b][parts[j]].tolist() == pytest.approx([ahead] * len(parts[j]), abs=1e-12)


def mean(values: Tensor, part: list[int], options: dict[str, Any]) -> float:
    weights = [1 / (1 + k) if options.get("sigma") == "position" else 1.0 for k in range(len(part))]
    return sum(w * values[t].item() for w, t in zip(weights, part, strict=True)) / sum(weights)


@pytest.mark.parametrize("rule", RULES)
def test_what_lies_off_live_positions_changes_nothing(rule: Any) -> None:
    batch = valued(ungraded=True)
    want = MacroReturns()(rule(batch))
    for other in (pad(batch, make_now(batch), 4)[0], poisoned(batch, make_now(batch), float("nan"))[0]):
        got = MacroReturns()(rule(KLInReward(coef=0.1)(other)))
        for name in ("macro", "returns", "value_macro"):
            assert torch.equal(got.column(name)[:, :17], want.column(name)), name
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1))
    there = MacroReturns()(rule(batch.take(order)))
    assert torch.equal(there.column("returns"), want.column("returns")[order]), "no row is cut by another's"


def test_twice_is_once() -> None:
    part = MacroReturns(reward="mean")
    once = part(FixedMacros(n=4)(valued()))
    assert torch.equal(part(once).column("returns"), once.column("returns"))


def test_it_reports_how_long_macro_actions_are() -> None:
    columns = {"value_old": torch.zeros(3, 7), "reward": torch.zeros(3, 7)}
    batch = hand_batch([1.0, 0.0, 1.0], [7, 1, 2], graded=[True, True, False], **columns)
    assert MacroReturns().report(MacroReturns()(FixedMacros(n=3)(batch))) == {
        "macro/tokens": (8.0, 4.0),
        "macro/by_token": (1.0, 2.0),
    }


def test_scores_are_clipped_before_anything_is_charged() -> None:
    batch = hand_batch([4.0, -9.0, 1.0, float("nan")], [1] * 4, graded=[True, True, True, False])
    clipped = ClippedScore(limit=2.5)(batch)
    assert clipped.score[:3].tolist() == [2.5, -2.5, 1.0] and batch.score[0] == 4.0
    zeros = torch.zeros(4, 1, dtype=torch.float64)
    charged = KLInReward(coef=0.05)(clipped.with_columns(logp_old=zeros + 2, logp_ref=zeros))
    assert charged.column("reward")[:, 0].tolist() == pytest.approx([2.4, -2.6, 0.9, 0.0])
    with pytest.raises(ValueError, match="a number above 0, not -1"):
        ClippedScore(limit=-1.0)


def test_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="lam of generalised advantages is a number from 0 to 1"):
        MacroReturns(lam=1.5)
