"""Whether a method can be trained inside TRL: what its parts need against what TRL's trainer has."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rekindle.core.aggregate import SamplerWeighted
from rekindle.core.method import PolicyGradient
from rekindle.core.types import ENTROPY_OLD, LOGP_OLD, LOGP_REF, Need, Needy
from rekindle.errors import InputError
from rekindle.interop.trl.rewards import GroupReward
from rekindle.tokens.collect import Answers, Everything, FirstOfGroup, InOrder, Once
from rekindle.train.find import find_method, make_method

PLAIN = {"prompts": InOrder(), "draw": Once(), "pick": FirstOfGroup(), "select": Everything()}
"""Slots of `Answers` that TRL's own sampling stands for, as they are where a method leaves them alone."""
GIVEN = (LOGP_OLD, LOGP_REF, ENTROPY_OLD)
"""Columns that TRL's trainer can score."""
OWNED = {
    "loss_type": "objective and aggregate",
    "epsilon": "objective",
    "epsilon_high": "objective",
    "delta": "objective",
    "sapo_temperature_neg": "objective",
    "sapo_temperature_pos": "objective",
    "vespo_k_pos": "objective",
    "vespo_lambda_pos": "objective",
    "vespo_k_neg": "objective",
    "vespo_lambda_neg": "objective",
    "importance_sampling_level": "objective",
    "scale_rewards": "advantage",
    "multi_objective_aggregation": "advantage",
    "top_entropy_quantile": "keep",
    "off_policy_mask_threshold": "keep",
    "entropy_coef": "terms",
    "use_adaptive_entropy": "terms",
    "entropy_coef_min": "terms",
    "entropy_coef_max": "terms",
    "entropy_coef_delta": "terms",
    "entropy_target": "terms",
    "use_bias_correction_kl": "terms",
    "vllm_importance_sampling_mode": "aggregate",
    "vllm_importance_sampling_cap": "aggregate",
    "vllm_importance_sampling_clip_max": "aggregate",
    "vllm_importance_sampling_clip_min": "aggregate",
}
"""Settings of `GRPOConfig` that a slot of the method says instead, at TRL 1.16: all those of TRL's loss but beta."""


def record_of(method: PolicyGradient | str) -> PolicyGradient:
    """The record: itself, or that of a name as `rekindle train` takes it ("evol_rl", "grpo+kl_cov", "FILE.py:NAME").

    InputError where the name is unknown, or the method is none that descends from start to end.
    """
    record = make_method(find_method(method)) if isinstance(method, str) else method
    if not isinstance(record, PolicyGradient):
        raise InputError(
            f"'{method}' is a {type(record).__name__}, and TRL's trainer descends one loss: name a method that is one "
            "PolicyGradient"
        )
    return record


def refuse_parts(record: PolicyGradient, rewards: Sequence[object], reference: bool) -> None:
    """InputError naming the part that needs what TRL does not have.

    rewards: the reward functions of the run. reference: whether TRL keeps a reference model (beta is not 0).
    """
    for slot in ("source", "after"):
        for part in vars(record)[slot]:
            raise InputError(
                f"{_name(part)} ({slot}) reads or writes the memory of a run of Rekindle's own, which TRL's trainer "
                "has none of: train this method by `rekindle train`, or replace the slot"
            )
    for head in record.heads():
        raise InputError(
            f"the method wants a head '{head}' on the model, which TRL's GRPO trainer has none of: train it by "
            "`rekindle train`"
        )
    for part in record.parts():
        for need in part.needs if isinstance(part, Needy) else ():
            _refuse_need(part, need, reference)
    if isinstance(record.collect, Answers):
        _refuse_collect(record.collect, rewards)


def _refuse_need(part: object, need: Need, reference: bool) -> None:
    if need not in GIVEN:
        raise InputError(
            f"{_name(part)} needs '{need.name}', which is computed from the model's logits, and TRL's trainer shows "
            "none: train this method by `rekindle train`, or drop the part"
        )
    if need == LOGP_REF and not reference:
        raise InputError(
            f"{_name(part)} needs 'logp_ref', and TRL keeps a reference only where beta is not 0: set beta in "
            "GRPOConfig (the method's own coefficient is used, beta's size is not), or drop the part"
        )


def _refuse_collect(collect: Answers, rewards: Sequence[object]) -> None:
    """The sampling is TRL's; the score is that of the reward functions, so a vote or a shape must be among these."""
    for slot, plain in PLAIN.items():
        part = vars(collect)[slot]
        if type(part) is not type(plain):
            raise InputError(
                f"{_name(part)} (collect.{slot}) decides what is sampled or trained on, which TRL does itself: use "
                f"method.replace(collect=method.collect.replace({slot}={type(plain).__name__}()))"
            )
    for column in collect.columns:
        raise InputError(
            f"{_name(column)} (collect.columns) adds a column that TRL does not have: train this method by `rekindle "
            "train`, or drop the part"
        )
    if not (collect.label.votes or collect.shape):
        return
    made = [reward for reward in rewards if isinstance(reward, GroupReward)]
    if not any((reward.label, reward.shape) == (collect.label, collect.shape) for reward in made):
        parts = " and ".join(
            _name(part) for part in (*((collect.label,) if collect.label.votes else ()), *collect.shape)
        )
        raise InputError(
            f"the method's score is made by {parts}, which TRL does not have: give reward_funcs the same as a reward "
            "(majority_reward, novelty_reward or GroupReward of rekindle.interop.trl), or replace collect by Answers()"
        )


def refuse_settings(args: Any) -> None:
    """InputError naming a setting of TRL's in `OWNED` that is changed, or that no exact update can be made under."""
    defaults = {field.name: field.default for field in dataclasses.fields(args)}
    for name, slot in OWNED.items():
        if name in defaults and vars(args)[name] != defaults[name]:
            raise InputError(
                f"{name}={vars(args)[name]} in GRPOConfig has no effect, for the method's {slot} says it: leave it "
                f"at {defaults[name]} and change the method"
            )
    if args.steps_per_generation % args.gradient_accumulation_steps:
        raise InputError(
            f"steps_per_generation={args.steps_per_generation} is no multiple of gradient_accumulation_steps="
            f"{args.gradient_accumulation_steps}, so an update would hold rows that are not sampled when its weights "
            "are made: make it one"
        )


def refuse_correction(args: Any, record: PolicyGradient) -> None:
    """InputError where TRL would correct for vLLM's log-probs and the method does not."""
    corrected = any(isinstance(part, SamplerWeighted) for part in record.parts())
    if args.use_vllm and args.vllm_importance_sampling_correction and not corrected:
        raise InputError(
            "vllm_importance_sampling_correction has no effect, for the method's aggregate weighs the tokens: set it "
            "to False, or give the method aggregate=SamplerWeighted(inner=...)"
        )


def _name(part: object) -> str:
    return part.__name__ if callable(part) and hasattr(part, "__name__") else type(part).__name__
