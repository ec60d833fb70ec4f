"""The losses of a method as hydra overrides of verl 0.9.1, each by a translator of its class."""

from __future__ import annotations

from typing import Any

from rekindle.core.aggregate import FixedLength, SamplerWeighted, SequenceMean, TokenMean
from rekindle.core.likelihood import Likelihood
from rekindle.core.objectives import Clip
from rekindle.core.schedules import Schedule
from rekindle.core.terms import EntropyBonus, KLToReference
from rekindle.interop.explain.said import Place, Said, Table, Value, fixed, lacks, schedules
from rekindle.methods.cispo import CappedWeight
from rekindle.methods.clip_cov import ClipCov
from rekindle.methods.kl_cov import KLCov
from rekindle.methods.ppo_clip import ValueLoss
from rekindle.methods.sapo import SoftGate

ACTOR, ALGORITHM = "actor_rollout_ref.actor", "algorithm"
NEVER = 1e6
"""A dual clip bound that no ratio reaches: verl cannot leave it out."""


def actor(**given: Value) -> Said:
    """Flags of the actor."""
    return Said(flags={f"{ACTOR}.{name}": value for name, value in given.items()})


def policy_loss(mode: str, **given: Value) -> Said:
    """The actor's policy loss and its own numbers."""
    return Said(flags={f"{ACTOR}.policy_loss.{name}": value for name, value in {"loss_mode": mode, **given}.items()})


def bounds(low: Any, high: Any) -> Said:
    """Clip bounds as verl's distances from 1; those that change over the run are left out."""
    said = {} if isinstance(low, Schedule) else {"clip_ratio_low": round(1.0 - low, 12)}
    return actor(**said, **({} if isinstance(high, Schedule) else {"clip_ratio_high": round(high - 1.0, 12)}))


def clip(part: Clip, place: Place) -> Said:
    """vanilla by token (with a dual clip that never acts where ours has none), gspo by response."""
    said = schedules(part, place) + bounds(part.low, part.high)
    if part.level == "segment":
        return said + lacks(place, "verl has one ratio a token or one a response", part.level, at="level")
    if part.level == "token":
        dual = NEVER if part.dual is None else part.dual
        return (
            policy_loss("vanilla") + said + (Said() if isinstance(dual, Schedule) else actor(clip_ratio_c=float(dual)))
        )
    said = policy_loss("gspo") + said
    return said if part.dual is None else said + lacks(place, "verl's gspo has no dual clip", part.dual, at="dual")


def capped(part: CappedWeight, place: Place) -> Said:
    """cispo, whose bounds are distances from 1."""
    return policy_loss("cispo") + bounds(part.low, part.high)


def gate(part: SoftGate, place: Place) -> Said:
    """sapo, which averages within each response first, whatever the mode."""
    said = policy_loss("sapo") + actor(tau_pos=part.tau_up, tau_neg=part.tau_down)
    if isinstance(place.mean, SequenceMean):
        return said
    return said + lacks(place, "verl's sapo averages within each response first", place.mean, at="aggregate")


def likelihood(part: Likelihood, place: Place) -> Said:
    """gpg: the advantage times the log-likelihood."""
    if part.confident:
        return lacks(place, "verl does not weigh tokens by their probability", part)
    return policy_loss("gpg")


def kl_cov(part: KLCov, place: Place) -> Said:
    """kl_cov with its share and coefficient."""
    return policy_loss("kl_cov", kl_cov_ratio=part.share, ppo_kl_coef=part.beta)


def clip_cov(part: ClipCov, place: Place) -> Said:
    """clip_cov with its share, band and clip bounds."""
    said = policy_loss("clip_cov", clip_cov_ratio=part.share, clip_cov_lb=part.above, clip_cov_ub=part.below)
    said += schedules(part.clip, place) + bounds(part.clip.low, part.clip.high)
    if part.clip.dual is not None or part.clip.level != "token":
        said += lacks(place, "verl's clip_cov has no dual clip and a ratio a token", part.clip, at="clip")
    return said


def token_mean(part: TokenMean, place: Place) -> Said:
    """token-mean."""
    return actor(loss_agg_mode="token-mean")


def sequence_mean(part: SequenceMean, place: Place) -> Said:
    """seq-mean-token-mean."""
    return actor(loss_agg_mode="seq-mean-token-mean")


def fixed_length(part: FixedLength, place: Place) -> Said:
    """seq-mean-token-sum(-norm), with the length where it is not that of a response."""
    if part.length == 1:
        return actor(loss_agg_mode="seq-mean-token-sum")
    said = actor(loss_agg_mode="seq-mean-token-sum-norm")
    return said if part.length is None else said + actor(loss_scale_factor=part.length)


def sampler_weighted(part: SamplerWeighted, place: Place) -> Said:
    """Rollout correction: truncated, or masked by a band that has no lower end."""
    inner = TABLE.get(type(part.inner))
    said = inner(part.inner, place) if inner else lacks(place, "no such mean", part.inner, at="inner")
    threshold = f"1e-9_{float(part.cap)}" if part.mask else float(part.cap)
    weights = {"rollout_is": part.level, "rollout_is_threshold": threshold}
    return said + Said(flags={f"{ALGORITHM}.rollout_correction.{name}": value for name, value in weights.items()})


KL_TYPES = {"k1": "k1", "k2": "k2", "k3": "low_var_kl"}


def kl(part: KLToReference, place: Place) -> Said:
    """The actor's KL loss, averaged as the policy's."""
    said = schedules(part, place) + _like_the_loss(part.aggregate, place)
    if isinstance(part.coef, Schedule):
        return said
    return said + actor(use_kl_loss=True, kl_loss_coef=float(part.coef), kl_loss_type=KL_TYPES[part.estimator])


def entropy(part: EntropyBonus, place: Place) -> Said:
    """The actor's entropy bonus, averaged as the policy's."""
    said = schedules(part, place) + _like_the_loss(part.aggregate, place)
    return said if isinstance(part.coef, Schedule) else said + actor(entropy_coeff=float(part.coef))


def value_loss(part: ValueLoss, place: Place) -> Said:
    """The critic's loss; verl's critic is a model of its own."""
    said = Said(flags={"critic.cliprange_value": part.clip})
    said += lacks(place, "verl's critic is another model; here it is a head on the policy, trained with it", part)
    if not isinstance(part.aggregate, TokenMean):
        said += lacks(place, "verl's critic averages as its actor does", part.aggregate, at="aggregate")
    return said + fixed(place, "coef", part.coef, 0.5, "verl's value loss is half the squared error")


def _like_the_loss(mean: object, place: Place) -> Said:
    if mean == place.mean:
        return Said()
    return lacks(place, "verl averages it as the policy's loss", mean, at="aggregate")


TABLE: Table = {
    Clip: clip,
    CappedWeight: capped,
    SoftGate: gate,
    Likelihood: likelihood,
    KLCov: kl_cov,
    ClipCov: clip_cov,
    TokenMean: token_mean,
    SequenceMean: sequence_mean,
    FixedLength: fixed_length,
    SamplerWeighted: sampler_weighted,
    KLToReference: kl,
    EntropyBonus: entropy,
    ValueLoss: value_loss,
}
