"""The parts of a method as fields of TRL 1.16's `GRPOConfig`, each by a translator of its class."""

from __future__ import annotations

from rekindle.core.advantages import BatchWhitened, GroupNormalized, LeaveOneOut, Score
from rekindle.core.aggregate import FixedLength, SamplerWeighted, SequenceMean, TokenMean
from rekindle.core.objectives import Clip
from rekindle.core.schedules import Schedule
from rekindle.core.terms import EntropyBonus, KLToReference
from rekindle.interop.explain.batches import cut
from rekindle.interop.explain.said import Place, Said, Table, fixed, flags, lacks, schedules
from rekindle.methods.cispo import CappedWeight
from rekindle.methods.entropy_adaptive import AdaptiveBonus, FollowEntropy, entropy_coef
from rekindle.methods.forking_tokens import TopEntropy
from rekindle.methods.sapo import SoftGate

EPS = 1e-4
"""What TRL adds to a group's standard deviation."""


def clip(part: Clip, place: Place) -> Said:
    """epsilon, epsilon_high, delta and the level of the ratio; bounds that change over the run are lacking."""
    said = schedules(part, place)
    if not isinstance(part.low, Schedule):
        said += flags(epsilon=round(1 - part.low, 12))
    if not isinstance(part.high, Schedule):
        said += flags(epsilon_high=round(part.high - 1, 12))
    if part.dual is not None and not isinstance(part.dual, Schedule):
        said += flags(delta=float(part.dual))
    if part.level == "segment":
        return said + lacks(place, "TRL has one ratio a token or one a response", part.level, at="level")
    return said + flags(importance_sampling_level=part.level)


def capped(part: CappedWeight, place: Place) -> Said:
    """loss_type=cispo, whose epsilon_high is the cap itself."""
    said = flags(loss_type="cispo", epsilon_high=float(part.high))
    return said + (lacks(place, "TRL's weight has no lower bound", part.low, at="low") if part.low else Said())


def gate(part: SoftGate, place: Place) -> Said:
    """loss_type=sapo with its two temperatures."""
    return flags(loss_type="sapo", sapo_temperature_pos=part.tau_up, sapo_temperature_neg=part.tau_down)


def token_mean(part: TokenMean, place: Place) -> Said:
    """loss_type=dapo; cispo has this mean already, sapo another."""
    if isinstance(place.record.objective, SoftGate):
        return lacks(place, "TRL's sapo averages over tokens within each response first", part)
    return Said(same="cispo's own mean") if _named(place) else flags(loss_type="dapo") + _parted(place)


def sequence_mean(part: SequenceMean, place: Place) -> Said:
    """loss_type=grpo; sapo has this mean already, cispo another."""
    if isinstance(place.record.objective, CappedWeight):
        return lacks(place, "TRL's cispo averages over all tokens", part)
    return Said(same="sapo's own mean") if _named(place) else flags(loss_type="grpo")


def fixed_length(part: FixedLength, place: Place) -> Said:
    """loss_type=dr_grpo, whose length is always max_completion_length."""
    limit = place.config.rollout.max_tokens
    if _named(place):
        return lacks(place, "cispo and sapo have means of their own in TRL", part)
    if part.length not in (None, limit):
        return lacks(place, f"TRL's dr_grpo divides by max_completion_length ({limit})", part)
    return flags(loss_type="dr_grpo")


def sampler_weighted(part: SamplerWeighted, place: Place) -> Said:
    """vLLM's importance sampling: truncated or masked, by token or by sequence."""
    inner = TABLE.get(type(part.inner))
    said = inner(part.inner, place) if inner else lacks(place, "no such mean", part.inner, at="inner")
    kind = f"{part.level}_{'mask' if part.mask else 'truncate'}"
    weights = {"vllm_importance_sampling_mode": kind, "vllm_importance_sampling_clip_max": float(part.cap)}
    return said + Said(flags={"use_vllm": True, **weights})


def _named(place: Place) -> bool:
    """Whether the objective is one that TRL calls by a loss_type, which then says the mean, too."""
    return isinstance(place.record.objective, CappedWeight | SoftGate)


def _parted(place: Place) -> Said:
    """TRL divides by the tokens of all minibatches of a step, evenly: 1 / its own number only where there is one."""
    if place.record.descent.minibatches == 1:
        return Said()
    reason = "TRL divides by the mean number of tokens of a step's minibatches, ours by that of the minibatch"
    return fixed(place, "denominator", "own", "mean of the step", reason)


def group_normalized(part: GroupNormalized, place: Place) -> Said:
    """scale_rewards=group or none; TRL's epsilon is 1e-4, and its deviation that of a sample."""
    if part.std == "none":
        return flags(scale_rewards="none")
    if part.std == "population":
        return lacks(place, "TRL divides by the deviation of a sample (n - 1)", part.std, at="std")
    reason = "TRL adds 1e-4 to the standard deviation, and no option changes it"
    return flags(scale_rewards="group") + fixed(place, "eps", part.eps, EPS, reason, row="trl-group-eps")


def leave_one_out(part: LeaveOneOut, place: Place) -> Said:
    """RLOO's own trainer, which clips something else."""
    reason = "TRL has it in RLOOTrainer only, which clips the product of a response's ratios; GRPOConfig has no such"
    return lacks(place, reason, part)


def batch_whitened(part: BatchWhitened, place: Place) -> Said:
    """Near to scale_rewards=batch, which scales by the deviation of rewards, not of advantages by token."""
    reason = "TRL's scale_rewards=batch divides by the deviation of all rewards; this whitens advantages over tokens"
    return lacks(place, reason, part)


def score(part: Score, place: Place) -> Said:
    """TRL always takes the group's mean off."""
    return lacks(place, "TRL always takes the mean of the group off the reward", part)


def kl(part: KLToReference, place: Place) -> Said:
    """beta, without TRL's correction by the ratio; k3 and the mean of the loss are all that it has."""
    said = schedules(part, place)
    if part.estimator != "k3":
        return said + lacks(place, f"TRL's KL is k3, not {part.estimator}", part)
    if part.aggregate != place.mean:
        said += lacks(place, "TRL averages its KL as it does the loss", part.aggregate, at="aggregate")
    return (
        said if isinstance(part.coef, Schedule) else said + flags(beta=float(part.coef), use_bias_correction_kl=False)
    )


def entropy(part: EntropyBonus, place: Place) -> Said:
    """entropy_coef: the mean over tokens, whatever the loss."""
    said = schedules(part, place)
    if not isinstance(part.aggregate, TokenMean):
        said += lacks(place, "TRL's bonus is the mean over tokens", part.aggregate, at="aggregate")
    said += _cut(place)
    return said if isinstance(part.coef, Schedule) else said + flags(entropy_coef=float(part.coef))


def _cut(place: Place) -> Said:
    """TRL's mean entropy of an update in several forward passes."""
    if cut(place.record.descent, place).pieces == 1:
        return Said()
    reason = (
        "TRL takes the mean over the tokens of each forward pass, then that of the passes: fewer tokens, more weight"
    )
    return fixed(place, "mean", "of the minibatch", "of each micro-batch", reason)


def adaptive(part: AdaptiveBonus, place: Place) -> Said:
    """use_adaptive_entropy."""
    said = flags(use_adaptive_entropy=True) + _cut(place)
    if not isinstance(part.aggregate, TokenMean):
        said += lacks(place, "TRL's bonus is the mean over tokens", part.aggregate, at="aggregate")
    return said


def follow(part: FollowEntropy, place: Place) -> Said:
    """The target and the step of the adaptive bonus."""
    return flags(entropy_target=part.target, entropy_coef_delta=part.delta)


def top(part: TopEntropy, place: Place) -> Said:
    """top_entropy_quantile, the share that is kept."""
    if part.side != "top":
        return lacks(place, "TRL keeps the tokens of highest entropy only", part.side, at="side")
    return flags(top_entropy_quantile=part.share)


TABLE: Table = {
    Clip: clip,
    CappedWeight: capped,
    SoftGate: gate,
    TokenMean: token_mean,
    SequenceMean: sequence_mean,
    FixedLength: fixed_length,
    SamplerWeighted: sampler_weighted,
    GroupNormalized: group_normalized,
    LeaveOneOut: leave_one_out,
    BatchWhitened: batch_whitened,
    Score: score,
    KLToReference: kl,
    EntropyBonus: entropy,
    AdaptiveBonus: adaptive,
    FollowEntropy: follow,
    entropy_coef: lambda part, place: Said(same="TRL keeps the coefficient itself"),
    TopEntropy: top,
}
