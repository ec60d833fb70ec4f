"""Advantage estimators for verl without verl: our own advantages, a KL that verl charges, rows without a token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from rekindle import methods
from rekindle.core.method import PolicyGradient
from rekindle.errors import InputError
from rekindle.interop.verl.estimators import Estimator
from rekindle.interop.verl.handed import groups_of
from rekindle.interop.verl.shares import algorithm_options
from tests.batches import make_batch

ROWS, WIDTH = 12, 7


def record(name: str, **slots: Any) -> PolicyGradient:
    made = methods.load(name).method()
    assert isinstance(made, PolicyGradient)
    return made.replace(**slots).at(0.0)


def nested(options: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, value in options.items():
        outer, _, last = path.rpartition(".")
        (found.setdefault(outer, {}) if outer else found)[last] = value
    return found


@pytest.mark.parametrize("name", ["grpo", "rloo", "opo", "gpg", "maxrl", "ngrpo", "dr_grpo", "sign_advantage"])
def test_advantages_are_our_own(name: str) -> None:
    method, batch = record(name), make_batch(ROWS, WIDTH, seed=3)
    last = batch.mask & (batch.mask.flip(1).cumsum(1).flip(1) == 1)
    rewards = torch.where(last, batch.score[:, None], 0.0)
    index = [f"p{g}" for g in batch.group.tolist()]
    found, returns = Estimator(method=method, name="ours")(rewards, batch.mask, index, {})
    batch = replace(batch, score=rewards.sum(dim=1), graded=torch.ones(ROWS, dtype=torch.bool))
    torch.testing.assert_close(found, method.credit(batch).advantage, rtol=0, atol=1e-12)
    assert torch.equal(found, returns) and found is not returns and (found != 0).any()


def test_a_kl_in_the_reward_is_verls_to_charge() -> None:
    method = record("reinforce_pp")
    options = algorithm_options(method)
    assert options == {"use_kl_in_reward": True, "kl_penalty": "k1", "kl_ctrl.type": "fixed", "kl_ctrl.kl_coef": 1e-4}
    rewards = torch.tensor([[0.1, -0.2, 1.0], [0.3, 0.5, 9.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    found, _ = Estimator(method=method, name="ours")(rewards, mask, None, nested(options))
    togo = torch.tensor([0.9, 0.8, 1.0, 0.8, 0.5])
    want = (togo - togo.mean()) / (togo.var(correction=0) + 1e-8).sqrt()
    torch.testing.assert_close(found[mask.bool()], want)
    with pytest.raises(InputError, match=r"ours wants algorithm.use_kl_in_reward=true"):
        Estimator(method=method, name="ours")(rewards, mask, None, {})
    with pytest.raises(InputError, match=r"ours wants algorithm.kl_ctrl.kl_coef=0.0001"):
        Estimator(method=method, name="ours")(rewards, mask, None, nested({**options, "kl_ctrl.kl_coef": 0.001}))
    with pytest.raises(InputError, match=r"ours wants algorithm.use_kl_in_reward=false"):
        Estimator(method=record("grpo"), name="ours")(rewards, mask, ["a", "a"], nested(options))


def test_rewards_of_tokens_and_of_greedy_responses_are_taken() -> None:
    rewards, mask = torch.tensor([[0.25, 1.0, 0.0], [0.5, 0.0, 9.0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    togo = record("reinforce_pp", modulate=())
    found, _ = Estimator(method=togo, name="ours")(rewards, mask, None, nested(algorithm_options(togo)))
    assert found.tolist() == [[1.25, 1.0, 0.0], [0.5, 0.0, 0.0]]
    remax = Estimator(method=record("remax"), name="ours")
    found, _ = remax(rewards, mask, ["a", "b"], {}, reward_baselines=torch.tensor([1.0, 0.25]))
    assert found.tolist() == [[0.25, 0.25, 0.25], [0.25, 0.25, 0.0]]


def test_rows_without_a_token_are_in_no_statistic() -> None:
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.0], [5.0, 5.0]])
    mask = torch.tensor([[1, 1], [1, 1], [0, 0]])
    found, _ = Estimator(method=record("grpo"), name="ours")(rewards, mask, ["a", "a", "a"], {})
    alone, _ = Estimator(method=record("grpo"), name="ours")(rewards[:2], mask[:2], ["a", "a"], {})
    assert torch.equal(found[:2], alone) and (found[2] == 0).all() and (alone != 0).all()


def test_groups_need_an_index() -> None:
    rewards, mask = torch.ones(2, 2), torch.ones(2, 2)
    with pytest.raises(InputError, match="verl gave no uid: pass index"):
        Estimator(method=record("grpo"), name="ours")(rewards, mask)
    assert groups_of(["b", "a", "b"], torch.device("cpu")).tolist() == [0, 1, 0]
