"""The random reward: fair coins by uid, blind to what was said, and success told honestly."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rekindle.core.random import pack_key, uniforms
from rekindle.methods import random_reward
from rekindle.methods.random_reward import CoinToss
from rekindle.tokens.collect import Answers
from rekindle.tokens.labels import Answered
from rekindle.tokens.rollouts import Rollouts
from tests.methods.made import VERIFIER, spoken
from tests.methods.stage import collected

METHOD = random_reward.method()


def toss(rollouts: Rollouts, key: Tensor, probability: float = 0.5) -> Tensor:
    verdicts = Answered()(rollouts, VERIFIER)
    shaped = CoinToss(probability=probability)(rollouts, verdicts, SimpleNamespace(key=key))
    assert torch.equal(shaped.success, verdicts.success) and torch.equal(shaped.graded, verdicts.graded)
    return shaped.score


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_coins_land_with_their_probability(probability: float) -> None:
    score = toss(spoken(["x=5"] * 4000), pack_key(0, 3, 0), probability)
    assert set(score.tolist()) == {0.0, 1.0}
    assert score.mean().item() == pytest.approx(probability, abs=4 * (probability * (1 - probability) / 4000) ** 0.5)


def test_a_coin_depends_on_seed_step_and_uid_and_on_nothing_else() -> None:
    rollouts = spoken(["x=5", "x=7", "no", "x"] * 50, truth="5")
    want = toss(rollouts, pack_key(1, 2, 0))
    assert torch.equal(toss(rollouts, pack_key(1, 2, 0)), want)
    order = torch.arange(199, -1, -1)
    assert torch.equal(toss(rollouts.take(order), pack_key(1, 2, 0)), want[order])
    assert torch.equal(toss(replace(rollouts, text=["x=7"] * 200), pack_key(1, 2, 0)), want)
    for key in (pack_key(2, 2, 0), pack_key(1, 3, 0)):
        assert 0.3 < (toss(rollouts, key) == want).double().mean() < 0.7


def test_coins_are_not_the_draws_of_the_tokens() -> None:
    key, uid = pack_key(0, 0, 0), torch.arange(4000)
    coins = toss(spoken(["x=5"] * 4000), key)
    for t in range(4):
        same = ((uniforms(key, uid, 4)[:, t] < 0.5).double() == coins).double().mean().item()
        assert same == pytest.approx(0.5, abs=0.04)


def test_success_is_an_answer_and_truth_is_never_read() -> None:
    rollouts = spoken(["x=5", "x=7", "nothing", "y=5"], truth="5")
    batch = collected(METHOD, rollouts)[1]
    assert batch.success.tolist() == [True, True, False, True] and batch.graded.all()
    blind = collected(METHOD, spoken(["x=5", "x=7", "nothing", "y=5"]))[1]
    assert torch.equal(blind.score, batch.score) and torch.equal(blind.advantage, batch.advantage)
    assert isinstance(METHOD.collect, Answers) and not METHOD.collect.label.needs_truth


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.2])
def test_a_coin_that_cannot_land_on_both_sides_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        CoinToss(probability=probability)
