"""Registering with verl, played by two dicts: names, options, what is refused and in whose name, and verl missing."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from rekindle import methods
from rekindle.core.aggregate import PromptMean
from rekindle.core.method import PolicyGradient
from rekindle.core.schedules import Linear
from rekindle.core.terms import EntropyBonus, KLToReference
from rekindle.errors import InputError
from rekindle.interop.verl import register
from rekindle.interop.verl.losses import PolicyLoss
from rekindle.interop.verl.reach import setting


def record(name: str, **slots: Any) -> PolicyGradient:
    made = methods.load(name).method()
    assert isinstance(made, PolicyGradient)
    return made.replace(**slots)


def test_a_name_registers_both_and_says_the_options(algos: Any) -> None:
    told = register("evol-rl")
    assert told.name == "rekindle_evol_rl" and told.parts == ("loss", "advantage")
    assert isinstance(algos.POLICY_LOSS_REGISTRY["rekindle_evol_rl"], PolicyLoss)
    assert "rekindle_evol_rl" in algos.ADV_ESTIMATOR_REGISTRY
    assert told.flags == {
        "actor_rollout_ref.actor.policy_loss.loss_mode": "rekindle_evol_rl",
        "actor_rollout_ref.actor.loss_agg_mode": "token-mean",
        "actor_rollout_ref.actor.entropy_coeff": 0.003,
        "actor_rollout_ref.actor.use_kl_loss": True,
        "actor_rollout_ref.actor.kl_loss_coef": 0.001,
        "actor_rollout_ref.actor.kl_loss_type": "k3",
        "algorithm.adv_estimator": "rekindle_evol_rl",
        "algorithm.use_kl_in_reward": False,
    }
    lines = str(told).splitlines()
    assert "actor_rollout_ref.actor.use_kl_loss=true" in lines
    assert any(line.startswith("# collect.shape NoveltyBands") for line in lines)


def test_one_of_the_two_and_options(algos: Any) -> None:
    told = register("clip_cov", "mine", options={"objective.share": 0.25}, parts=["loss"])
    assert algos.POLICY_LOSS_REGISTRY["mine"].method.objective.share == 0.25
    assert "mine" not in algos.ADV_ESTIMATOR_REGISTRY and "algorithm.adv_estimator" not in told.flags
    assert "looks at the whole minibatch" in told.left[0]
    assert register(record("rloo"), "other", parts=["advantage"]).flags.keys() == {
        "algorithm.adv_estimator",
        "algorithm.use_kl_in_reward",
    }
    assert register("grpo").left == ()


def test_names(algos: Any) -> None:
    assert register("grpo") == register("grpo"), "again, the same"
    with pytest.raises(InputError, match="verl has another 'vanilla' already: choose another name"):
        register("rloo", "vanilla")
    with pytest.raises(InputError, match="a record has no name of its own: pass name="):
        register(record("grpo"))
    with pytest.raises(InputError, match="unknown method 'grop'"):
        register("grop")
    with pytest.raises(InputError, match="unknown part to register 'reward'"):
        register("grpo", "third", parts=["reward"])
    with pytest.raises(InputError, match=r"unknown option 'objective.wide'"):
        register("grpo", "third", options={"objective.wide": 1})
    assert "third" not in algos.POLICY_LOSS_REGISTRY


@pytest.mark.parametrize(
    ("method", "parts", "sentence"),
    [
        ("echo_rl", ["loss"], "its terms EchoNLL is neither verl's entropy bonus nor its KL"),
        ("echo_rl", ["advantage"], "its prepare MineEcho reads 'entropy_old', which verl does not hand over"),
        ("forking_tokens", ["loss"], "its keep TopEntropy reads the 'entropy' of rows"),
        ("p3o", ["loss"], "its objective PairwiseClip reads 'logp_ref'"),
        ("tis", ["loss"], "its aggregate SamplerWeighted has no counterpart"),
        ("ppo_clip", ["loss"], "its terms ValueLoss is neither"),
        ("ppo_clip", ["advantage"], "its prepare Returns reads 'value_old'"),
        ("ma_rlhf", ["advantage"], "its prepare ClippedScore changes rewards that verl has already charged"),
        ("rl_zvp", ["advantage"], "its advantage ZeroVariance reads 'entropy_old'"),
        ("kdrl", ["advantage"], "its prepare Pull reads 'step'"),
        ("stratified_grpo", ["advantage"], "its advantage Stratified reads 'stratum'"),
        ("entropy_adaptive", ["loss"], "its source .* reads and writes the memory of a run"),
        ("greso", ["advantage"], "its after AdaptRates reads and writes the memory"),
        ("sft", ["loss"], "its collect.draw Demonstrations brings other rows"),
        ("remix", ["loss"], "a record of kind Stages, which verl has no slot for"),
        ("essa", ["loss"], "a record of kind Evolution"),
    ],
)
def test_a_part_that_needs_more_is_named(algos: Any, method: str, parts: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        register(method, "refused", parts=parts)
    assert "refused" not in {**algos.POLICY_LOSS_REGISTRY, **algos.ADV_ESTIMATOR_REGISTRY}


def test_nothing_is_registered_where_one_of_the_two_is_refused(algos: Any) -> None:
    with pytest.raises(InputError, match="its modulate StepModulation reads 'entropy_old'"):
        register("empg", "half")
    with pytest.raises(InputError, match="verl has another 'grpo' already"):
        register("rloo", "grpo")
    assert {"half", "grpo"}.isdisjoint(algos.POLICY_LOSS_REGISTRY)


def test_terms_that_verl_cannot_add_so(algos: Any) -> None:
    other = KLToReference(coef=0.1, aggregate=PromptMean())
    with pytest.raises(InputError, match="KLToReference averages otherwise than the objective"):
        register(record("grpo", terms=(other,)), "terms")
    twice = (EntropyBonus(coef=0.1), EntropyBonus(coef=0.2))
    with pytest.raises(InputError, match="EntropyBonus is there twice"):
        register(record("grpo", terms=twice), "terms")
    moving = EntropyBonus(coef=Linear(0.1, 0.0))
    with pytest.raises(InputError, match="a number in terms follows a schedule"):
        register(record("grpo", terms=(moving,)), "terms")


def test_a_part_of_the_users_that_reads_rows_is_found_by_trial(algos: Any) -> None:
    base = record("grpo")

    class ByGroup:
        separable = True

        def __call__(self, now: Any, batch: Any) -> Any:
            loss, metrics = base.objective(now, batch)
            return loss * (1 + batch.group[:, None]), metrics

    with pytest.raises(InputError, match="its objective ByGroup reads the 'group' of rows"):
        register(base.replace(objective=ByGroup()), "own")


@pytest.mark.skipif(importlib.util.find_spec("verl") is not None, reason="verl is here")
def test_without_verl_there_is_one_sentence() -> None:
    with pytest.raises(
        InputError, match=r"^verl is not installed: install verl 0\.9\.1 into an environment of its own"
    ):
        register("grpo")


def test_settings_are_read_by_path() -> None:
    config = {"a": {"b": 3}, "c": None}
    assert setting(config, "a.b") == 3 and setting(config, "a.x") is None
    assert setting(config, "c.b") is None and setting(None, "a") is None
