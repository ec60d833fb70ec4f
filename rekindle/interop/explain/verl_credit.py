"""Advantages, and what becomes rewards before them, as hydra overrides of verl 0.9.1."""

from __future__ import annotations

from typing import Any

from rekindle.core.advantages import BatchWhitened, GroupNormalized, LeaveOneOut, Score
from rekindle.core.gae import OverValue, Returns
from rekindle.core.returns import KLInReward, ReturnToGo, WhitenTokens
from rekindle.core.schedules import Schedule
from rekindle.interop.explain.said import Place, Said, Table, Value, fixed, held, lacks, schedules
from rekindle.interop.explain.verl_parts import ALGORITHM
from rekindle.methods.gpg import PerMixedGroup
from rekindle.methods.opo import LengthWeightedBaseline
from rekindle.methods.remax import GreedyBaseline

EPS = 1e-6
KL_PENALTY = {"k1": "kl", "k2": "mse", "k3": "low_var_kl"}
VARIANCE = "verl's variance is over n - 1, and no option changes it"
ADDED = "verl adds 1e-8 to the variance, and no option changes it"


def algorithm(**given: Value) -> Said:
    """Flags of the algorithm."""
    return Said(flags={f"{ALGORITHM}.{name}": value for name, value in given.items()})


def group_normalized(part: GroupNormalized, place: Place) -> Said:
    """adv_estimator=grpo, with or without the deviation of a sample."""
    if part.std == "population":
        return lacks(place, "verl divides by the deviation of a sample (n - 1)", part.std, at="std")
    said = algorithm(adv_estimator="grpo", norm_adv_by_std_in_grpo=part.std == "sample")
    if part.std == "none":
        return said
    return said + fixed(place, "eps", part.eps, EPS, "verl adds 1e-6 to the standard deviation")


def leave_one_out(part: LeaveOneOut, place: Place) -> Said:
    """adv_estimator=rloo."""
    return algorithm(adv_estimator="rloo")


def batch_whitened(part: BatchWhitened, place: Place) -> Said:
    """adv_estimator=reinforce_plus_plus_baseline, whose inner advantage is the score less the group's mean."""
    inner = part.advantage
    if not isinstance(inner, GroupNormalized) or inner.std != "none":
        return lacks(place, "verl whitens the score less the mean of its group, nothing else", part)
    said = algorithm(adv_estimator="reinforce_plus_plus_baseline")
    said += fixed(place, "ddof", part.ddof, 1, VARIANCE, row="verl-reinforce-pp-baseline-ddof")
    return said + fixed(place, "eps", part.eps, 1e-8, ADDED)


def score(part: Score, place: Place) -> Said:
    """adv_estimator=remax, where a greedy response is taken off the score."""
    if held(place.record, GreedyBaseline):
        return algorithm(adv_estimator="remax")
    return lacks(place, "no estimator of verl takes the score itself", part)


def opo(part: LengthWeightedBaseline, place: Place) -> Said:
    """adv_estimator=opo."""
    return algorithm(adv_estimator="opo")


def gpg(part: PerMixedGroup, place: Place) -> Said:
    """adv_estimator=gpg, whose alpha counts something else."""
    return algorithm(adv_estimator="gpg")


def over_value(part: OverValue, place: Place) -> Said:
    """adv_estimator=gae, which always whitens."""
    if not part.whiten:
        return lacks(place, "verl's gae always whitens its advantages", part)
    said = algorithm(adv_estimator="gae") + fixed(place, "ddof", part.ddof, 1, VARIANCE)
    return said + fixed(place, "eps", part.eps, 1e-8, ADDED)


def return_to_go(part: ReturnToGo, place: Place) -> Said:
    """adv_estimator=reinforce_plus_plus, which whitens too."""
    if not held(place.record, WhitenTokens):
        return lacks(place, "verl's reinforce_plus_plus always whitens its returns", part)
    return algorithm(adv_estimator="reinforce_plus_plus", gamma=1.0)


def whiten(part: WhitenTokens, place: Place) -> Said:
    """A piece of reinforce_plus_plus."""
    if not isinstance(place.record.advantage, ReturnToGo):
        return lacks(place, "verl whitens returns-to-go only", part)
    said = Said(same="reinforce_plus_plus whitens over tokens")
    said += fixed(place, "ddof", part.ddof, 1, VARIANCE, row="verl-reinforce-pp-ddof")
    return said + fixed(place, "eps", part.eps, 1e-8, ADDED)


def returns(part: Returns, place: Place) -> Said:
    """gamma and lam of gae; verl always reads rewards by token, and charges a KL only where it is told to."""
    said = algorithm(gamma=part.gamma, lam=part.lam)
    if part.by_token and not held(place.record, KLInReward):
        return said + lacks(place, "what fills the rewards by token has no equivalent", part.by_token, at="by_token")
    return said


def kl_in_reward(part: KLInReward, place: Place) -> Said:
    """use_kl_in_reward with a fixed coefficient."""
    said = schedules(part, place) + algorithm(use_kl_in_reward=True, kl_penalty=KL_PENALTY[part.estimator])
    if isinstance(part.coef, Schedule):
        return said
    control: dict[str, Any] = {"kl_ctrl.type": "fixed", "kl_ctrl.kl_coef": float(part.coef)}
    return said + Said(flags={f"{ALGORITHM}.{name}": value for name, value in control.items()})


TABLE: Table = {
    GroupNormalized: group_normalized,
    LeaveOneOut: leave_one_out,
    BatchWhitened: batch_whitened,
    Score: score,
    LengthWeightedBaseline: opo,
    PerMixedGroup: gpg,
    OverValue: over_value,
    ReturnToGo: return_to_go,
    WhitenTokens: whiten,
    Returns: returns,
    KLInReward: kl_in_reward,
}
