"""verl's configuration (0.9.1: the tree of `ppo_trainer`, or overrides of it) as a wanted record."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import Any

from rekindle.core.advantages import BatchWhitened, GroupNormalized, LeaveOneOut, Score
from rekindle.core.aggregate import FixedLength, SamplerWeighted, SequenceMean, TokenMean
from rekindle.core.gae import OverValue, Returns
from rekindle.core.likelihood import Likelihood
from rekindle.core.method import PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.returns import KLInReward, ReturnToGo, WhitenTokens
from rekindle.core.schedules import Cosine, Warmup
from rekindle.core.terms import EntropyBonus, KLToReference
from rekindle.interop.explain.given import Given
from rekindle.interop.explain.verl_credit import KL_PENALTY
from rekindle.interop.explain.verl_options import config_of
from rekindle.interop.explain.verl_parts import ACTOR, ALGORITHM, KL_TYPES, NEVER
from rekindle.interop.explain.verl_run import OPTIM, UNCLIPPED
from rekindle.interop.explain.wanted import Change, Wanted, rate, select, shape, term
from rekindle.methods import grpo
from rekindle.methods.cispo import CappedWeight
from rekindle.methods.clip_cov import ClipCov
from rekindle.methods.dapo import Overlong
from rekindle.methods.gpg import PerMixedGroup
from rekindle.methods.kl_cov import KLCov
from rekindle.methods.opo import LengthWeightedBaseline
from rekindle.methods.ppo_clip import ValueLoss
from rekindle.methods.remax import GreedyBaseline
from rekindle.methods.sapo import SoftGate
from rekindle.tokens.collect import MixedGroups

MEANS = {
    **{"token-mean": TokenMean(), "seq-mean-token-mean": SequenceMean()},
    **{"seq-mean-token-sum": FixedLength(length=1), "seq-mean-token-sum-norm": FixedLength()},
}
BASELINES = {"remax": GreedyBaseline()}
"""Estimators that take something off the score first."""


def wanted(given: Given) -> Wanted:
    """The record and the options that the configuration asks for; what is not understood is noted in `given`."""
    base = replace(grpo.method(), objective=_objective(given), aggregate=_mean(given))
    base = _credited(base, given)
    base = replace(base, descent=_descent(given, base.descent))
    optional = {**_terms(given, base.aggregate), **_schedule(given), **_collected(given)}
    return Wanted(base=base, optional=optional, config=config_of(given))


def _objective(given: Given) -> Any:
    def number(name: str, default: float) -> float:
        return float(given.number(f"{ACTOR}.{name}", default))

    mode = given.text(f"{ACTOR}.policy_loss.loss_mode", "vanilla")
    low, high = round(1 - number("clip_ratio_low", 0.2), 12), round(1 + number("clip_ratio_high", 0.2), 12)
    dual: float | None = number("clip_ratio_c", 3.0)
    if given.has(f"{ACTOR}.clip_ratio"):
        given.refused(f"{ACTOR}.clip_ratio", "verl reads clip_ratio_low and clip_ratio_high, which have defaults")
    share, most, least = (
        number(f"policy_loss.clip_cov_{n}", v) for n, v in (("ratio", 2e-4), ("ub", 5.0), ("lb", 1.0))
    )
    some, beta = number("policy_loss.kl_cov_ratio", 2e-4), number("policy_loss.ppo_kl_coef", 0.1)
    warm, cool = number("tau_pos", 1.0), number("tau_neg", 1.05)
    dual = None if dual is None or dual >= NEVER else dual
    kinds: dict[str, Any] = {
        "vanilla": lambda: Clip(low=low, high=high, dual=dual),
        "gspo": lambda: Clip(low=low, high=high, dual=None, level="sequence"),
        "cispo": lambda: CappedWeight(low=low, high=high),
        "sapo": lambda: SoftGate(tau_up=warm, tau_down=cool),
        "gpg": Likelihood,
        "kl_cov": lambda: KLCov(share=some, beta=beta),
        "clip_cov": lambda: ClipCov(share=share, above=least, below=most, clip=Clip(low=low, high=high, dual=None)),
    }
    if mode not in kinds:
        given.refused(f"{ACTOR}.policy_loss.loss_mode", "no such loss here: left at vanilla")
    return kinds.get(mode, kinds["vanilla"])()


def _mean(given: Given) -> Any:
    name, length = given.text(f"{ACTOR}.loss_agg_mode", "token-mean"), given.whole(f"{ACTOR}.loss_scale_factor")
    if name not in MEANS:
        given.refused(f"{ACTOR}.loss_agg_mode", "no such mean here: left at token-mean")
    mean: Any = MEANS.get(name, TokenMean())
    mean = replace(mean, length=length) if length and name.endswith("norm") else mean
    correction = f"{ALGORITHM}.rollout_correction"
    level, cap = given.take(f"{correction}.rollout_is"), given.take(f"{correction}.rollout_is_threshold", 2.0)
    if level is None:
        return mean
    if level not in ("token", "sequence"):
        raise given.wrong(f"{correction}.rollout_is", "token or sequence")
    name = f"{correction}.rollout_is_threshold"
    band = _band(given, name, cap)
    if len(band) == 2 and band[0] > 1e-6:
        given.refused(name, "the band has no lower end here")
    return SamplerWeighted(inner=mean, level=level, cap=band[-1], mask=len(band) == 2)


def _band(given: Given, name: str, cap: Any) -> list[float]:
    """A cap, or the two ends of a band, LOW_HIGH."""
    try:
        band = [float(end) for end in str(cap).split("_")]
    except ValueError:
        band = []
    if len(band) not in (1, 2) or not all(isfinite(end) for end in band) or band[-1] <= 0:
        raise given.wrong(name, "a number above 0, or two with _ between")
    return band


def _credited(base: PolicyGradient, given: Given) -> PolicyGradient:
    """The record with the estimator's parts; verl's fixed numbers are set."""
    name = given.text(f"{ALGORITHM}.adv_estimator", "gae")
    std = "sample" if given.truth(f"{ALGORITHM}.norm_adv_by_std_in_grpo", True) else "none"
    gamma, lam = given.number(f"{ALGORITHM}.gamma", 1.0), given.number(f"{ALGORITHM}.lam", 1.0)
    charged = _charge(given)
    token = bool(charged)
    kinds: dict[str, Any] = {
        "grpo": {"advantage": GroupNormalized(std=std)},  # type: ignore[arg-type]
        "rloo": {"advantage": LeaveOneOut()},
        "opo": {"advantage": LengthWeightedBaseline()},
        "gpg": {"advantage": PerMixedGroup()},
        "remax": {"advantage": Score()},
        "reinforce_plus_plus_baseline": {"advantage": BatchWhitened(ddof=1)},
        "reinforce_plus_plus": {"advantage": ReturnToGo(), "modulate": (WhitenTokens(ddof=1),)},
        "gae": {"prepare": (*charged, Returns(gamma=gamma, lam=lam, by_token=token)), "advantage": OverValue()},
    }
    if name not in kinds:
        given.refused(f"{ALGORITHM}.adv_estimator", "no such advantage here: left at grpo")
    record = replace(base, prepare=charged, **kinds.get(name, kinds["grpo"])) if name != "gae" else base
    if name == "gae":
        clip = float(given.number("critic.cliprange_value", 0.5))
        record = replace(base, **kinds["gae"], terms=(ValueLoss(clip=clip),))
        given.means.append("the critic is a model of its own in verl, here a head on the policy")
    return shape(BASELINES[name])(record) if name in BASELINES else record


def _charge(given: Given) -> tuple[Any, ...]:
    kind, coef = given.text(f"{ALGORITHM}.kl_penalty", "kl"), given.number(f"{ALGORITHM}.kl_ctrl.kl_coef", 0.001)
    control = given.text(f"{ALGORITHM}.kl_ctrl.type", "fixed")
    if not given.truth(f"{ALGORITHM}.use_kl_in_reward"):
        return ()
    named = {verls: ours for ours, verls in KL_PENALTY.items()} | {"k1": "k1", "k2": "k2", "k3": "k3"}
    if kind not in named or control != "fixed":
        given.refused(f"{ALGORITHM}.kl_penalty", "not a fixed charge of k1, k2 or k3: left out")
        return ()
    return (KLInReward(coef=float(coef), estimator=named[kind]),)  # type: ignore[arg-type]


def _terms(given: Given, mean: Any) -> dict[str, Change]:
    mean = mean.inner if isinstance(mean, SamplerWeighted) else mean
    found: dict[str, Change] = {}
    coef, kind = given.number(f"{ACTOR}.kl_loss_coef", 0.001), given.text(f"{ACTOR}.kl_loss_type", "low_var_kl")
    named = {verls: ours for ours, verls in KL_TYPES.items()} | {"kl": "k1", "mse": "k2", "k3": "k3"}
    if given.truth(f"{ACTOR}.use_kl_loss"):
        if kind in named:
            part = KLToReference(coef=float(coef), estimator=named[kind], aggregate=mean)  # type: ignore[arg-type]
            found[f"use_kl_loss=true, kl_loss_coef={coef}"] = term(part)
        else:
            given.refused(f"{ACTOR}.kl_loss_type", "no such estimate here: the KL is left out")
    bonus = given.number(f"{ACTOR}.entropy_coeff", 0.0)
    if bonus:
        found[f"entropy_coeff={bonus}"] = term(EntropyBonus(float(bonus), aggregate=mean))
    return found


def _schedule(given: Given) -> dict[str, Change]:
    kind = given.text(f"{OPTIM}.lr_scheduler_type", "constant")
    lr, share = given.number(f"{OPTIM}.lr", 1e-6), given.number(f"{OPTIM}.lr_warmup_steps_ratio", 0.0)
    least = given.number(f"{OPTIM}.min_lr_ratio", 0.0) * lr
    if kind not in ("constant", "cosine"):
        given.refused(f"{OPTIM}.lr_scheduler_type", "no such schedule here: left constant")
    then: Any = Cosine(float(lr), float(least)) if kind == "cosine" else float(lr)
    if kind != "cosine" and not share:
        return {}
    return {f"lr_scheduler_type={kind}, warm-up {share}": rate(Warmup(float(share), then) if share else then)}


def _collected(given: Given) -> dict[str, Change]:
    found: dict[str, Change] = {}
    filters = f"{ALGORITHM}.filter_groups"
    rounds, metric = given.number(f"{filters}.max_num_gen_batches", 10), given.text(f"{filters}.metric", "acc")
    if given.truth(f"{filters}.enable"):
        found["filter_groups.enable=true"] = select(MixedGroups(max_rounds=int(rounds) or 10))
        if metric != "acc":
            given.means.append(
                f"filter_groups.metric={metric}: groups are mixed here where a success and a failure are"
            )
    given.take("reward.reward_manager.name")
    buffer, limit = "reward.reward_kwargs.overlong_buffer_cfg", given.number("reward.reward_kwargs.max_resp_len")
    limit = limit or given.number("data.max_response_length", 512)
    cache, factor = given.number(f"{buffer}.len", 0), given.number(f"{buffer}.penalty_factor", 1.0)
    given.take(f"{buffer}.log")
    if given.truth(f"{buffer}.enable"):
        found["overlong_buffer_cfg.enable=true"] = shape(Overlong(cache_share=cache / limit, factor=float(factor)))
    return found


def _descent(given: Given, descent: Any) -> Any:
    """Minibatches from the two sizes, which are of prompts, and AdamW's numbers."""
    size, cut = given.whole("data.train_batch_size", 1024), given.whole(f"{ACTOR}.ppo_mini_batch_size", 256)
    if size % cut:
        raise given.wrong(f"{ACTOR}.ppo_mini_batch_size", f"a divisor of data.train_batch_size ({size})")
    if given.has(f"{ACTOR}.ppo_mini_batch_size") or given.has("data.train_batch_size"):
        descent = replace(descent, minibatches=size // cut)
        given.means.append(f"data.train_batch_size={size} and ppo_mini_batch_size={cut} count prompts")
    numbers = {"lr": f"{OPTIM}.lr", "weight_decay": f"{OPTIM}.weight_decay", "grad_clip": f"{OPTIM}.clip_grad"}
    said: dict[str, Any] = {ours: float(given.number(name)) for ours, name in numbers.items() if given.has(name)}
    if given.has(f"{ACTOR}.grad_clip"):
        said.setdefault("grad_clip", float(given.number(f"{ACTOR}.grad_clip")))
    if said.get("grad_clip", 0.0) >= UNCLIPPED:
        said["grad_clip"] = 0.0
    betas = given.reals(f"{OPTIM}.betas", 2)
    said |= {"beta1": betas[0], "beta2": betas[1]} if betas else {}
    said |= {"head_lr": float(given.number("critic.optim.lr"))} if given.has("critic.optim.lr") else {}
    micro = given.whole(f"{ACTOR}.ppo_micro_batch_size_per_gpu")
    said |= {"micro_batch": micro} if micro else {}
    return replace(descent, **said, epochs=given.whole(f"{ACTOR}.ppo_epochs", 1))
