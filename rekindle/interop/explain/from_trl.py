"""TRL's configuration (1.16: `GRPOConfig`, and what `trl grpo --config` takes besides) as a wanted record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rekindle.core.advantages import GroupNormalized
from rekindle.core.aggregate import FixedLength, SamplerWeighted, SequenceMean, TokenMean
from rekindle.core.objectives import Clip
from rekindle.core.terms import EntropyBonus, KLToReference
from rekindle.interop.explain.given import Given
from rekindle.interop.explain.trl_config import config_of, rewards
from rekindle.interop.explain.trl_parts import EPS
from rekindle.interop.explain.trl_updates import numbers, schedule, sizes
from rekindle.interop.explain.wanted import Change, Wanted, slot, term
from rekindle.methods import grpo
from rekindle.methods.cispo import CappedWeight
from rekindle.methods.entropy_adaptive import AdaptiveBonus, FollowEntropy, entropy_coef
from rekindle.methods.forking_tokens import TopEntropy
from rekindle.methods.sapo import SoftGate

MEANS: Mapping[str, Any] = {
    **{"dapo": TokenMean(), "bnpo": TokenMean(), "grpo": SequenceMean(), "dr_grpo": FixedLength()},
    **{"cispo": TokenMean(), "sapo": SequenceMean()},
}
"""loss_type -> what it averages by."""


def wanted(given: Given) -> Wanted:
    """The record and the options that the configuration asks for; what is not understood is noted in `given`."""
    base = replace(grpo.method(), objective=_objective(given), aggregate=_mean(given), advantage=_advantage(given))
    descent = numbers(given, base.descent)
    counts, descent = sizes(given, descent)
    base = replace(base, descent=descent)
    config = {**config_of(given), **counts}
    shaped = rewards(given, config, base.advantage)
    return Wanted(base=base, optional={**_terms(given), **schedule(given), **shaped}, config=config)


def _objective(given: Given) -> Any:
    kind, width = given.text("loss_type", "dapo"), given.number("epsilon", 0.2)
    high = given.number("epsilon_high", width)
    level = given.text("importance_sampling_level", "token")
    warm, cool = given.number("sapo_temperature_pos", 1.0), given.number("sapo_temperature_neg", 1.05)
    dual = given.number("delta")
    dual = None if dual is None else float(dual)
    if level not in ("token", "sequence"):
        raise given.wrong("importance_sampling_level", "token or sequence")
    own: dict[str, Any] = {
        "cispo": lambda: CappedWeight(low=0.0, high=float(high)),
        "sapo": lambda: SoftGate(tau_up=float(warm), tau_down=float(cool)),
    }
    if kind in own:
        if level != "token":
            given.refused("importance_sampling_level", f"the ratio of {kind} is one a token here: left at token")
        return own[kind]()
    return Clip(low=round(1 - width, 12), high=round(1 + high, 12), dual=dual, level=level)  # type: ignore[arg-type]


def _mean(given: Given) -> Any:
    kind = given.text("loss_type", "dapo")
    if kind not in MEANS:
        given.refused("loss_type", "no such loss here: left at dapo, the mean over tokens")
    if kind == "bnpo":
        given.means.append("loss_type=bnpo averages over each micro-batch in TRL; here over the minibatch")
    mean = MEANS.get(kind, TokenMean())
    mode, cap = given.text("vllm_importance_sampling_mode", "sequence_mask"), 3.0
    cap = given.number("vllm_importance_sampling_clip_max", cap)
    correct = given.truth("vllm_importance_sampling_correction", True)
    if not given.truth("use_vllm") or not correct:
        return mean
    level, _, how = mode.partition("_")
    if level not in ("token", "sequence") or how not in ("mask", "truncate"):
        raise given.wrong("vllm_importance_sampling_mode", "token_ or sequence_ with mask or truncate")
    return SamplerWeighted(inner=mean, level=level, cap=float(cap), mask=how == "mask")  # type: ignore[arg-type]


def _advantage(given: Given) -> Any:
    how = given.text("scale_rewards", "group")
    if how in ("none", "false"):
        return GroupNormalized(std="none")
    if how not in ("group", "true"):
        given.refused("scale_rewards", "no such scale here: left at group")
    return GroupNormalized(eps=EPS)


def _terms(given: Given) -> dict[str, Change]:
    """KL, entropy and the tokens that are kept: each may be left out where no method has it beside the rest."""
    found: dict[str, Change] = {}
    beta, bonus = given.number("beta", 0.0), given.number("entropy_coef", 0.0)
    corrected = given.truth("use_bias_correction_kl", True)
    if beta:
        mean = MEANS.get(given.text("loss_type", "dapo"), TokenMean())
        found[f"beta={beta}"] = term(KLToReference(coef=float(beta), aggregate=mean))
        if corrected:
            given.means.append("beta: TRL multiplies its KL by the ratio (use_bias_correction_kl), ours is the KL")
    target, step = given.number("entropy_target", 0.2), given.number("entropy_coef_delta", 0.005)
    if given.truth("use_adaptive_entropy"):
        follow = FollowEntropy(target=float(target), delta=float(step))
        found["use_adaptive_entropy=true"] = lambda record: replace(
            term(AdaptiveBonus())(record), source=(entropy_coef,), after=(follow,)
        )
    elif bonus:
        found[f"entropy_coef={bonus}"] = term(EntropyBonus(float(bonus)))
    share = given.number("top_entropy_quantile", 1.0)
    if share < 1:
        found[f"top_entropy_quantile={share}"] = slot(keep=(TopEntropy(share=float(share)),))
        given.means.append("top_entropy_quantile: TRL divides by all tokens, ours by those kept")
    return found
