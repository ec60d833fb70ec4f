"""How a method's average over tokens is said to verl, and what verl itself has to add: options, and their check."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from rekindle.core.aggregate import Aggregate, FixedLength, SequenceMean, TokenMean
from rekindle.core.method import PolicyGradient
from rekindle.core.returns import KLInReward
from rekindle.core.schedules import plain
from rekindle.core.terms import EntropyBonus, KLToReference
from rekindle.errors import InputError
from rekindle.interop.verl.reach import setting

MODES: Mapping[type, str] = MappingProxyType(
    {TokenMean: "token-mean", SequenceMean: "seq-mean-token-mean", FixedLength: "seq-mean-token-sum-norm"}
)
"""The averages over tokens that verl has too, and their names there."""
ALIASES = MappingProxyType({"kl": "k1", "mse": "k2", "low_var_kl": "k3"})
"""verl's older names of KL estimates."""
ACTOR, ALGORITHM = "actor_rollout_ref.actor", "algorithm"


def actor_options(method: PolicyGradient) -> dict[str, Any]:
    """Option of verl's actor -> the value that makes it what the method says: average, entropy bonus, KL as a loss.

    `loss_scale_factor` stands there where the method fixes a length; one that takes the response budget needs any.
    """
    options: dict[str, Any] = {"loss_agg_mode": MODES[type(method.aggregate)]}
    if isinstance(method.aggregate, FixedLength) and method.aggregate.length is not None:
        options["loss_scale_factor"] = method.aggregate.length
    bonus = [plain(term.coef) for term in method.terms if isinstance(term, EntropyBonus)]
    options["entropy_coeff"] = float(sum(bonus))
    kl = [term for term in method.terms if isinstance(term, KLToReference)]
    options["use_kl_loss"] = bool(kl)
    if kl:
        options |= {"kl_loss_coef": plain(kl[0].coef), "kl_loss_type": kl[0].estimator}
    return options


def algorithm_options(method: PolicyGradient) -> dict[str, Any]:
    """Option of verl's algorithm -> the value that charges the KL in the reward as the method does, or not at all."""
    charged = [part for part in method.prepare if isinstance(part, KLInReward)]
    if not charged:
        return {"use_kl_in_reward": False}
    coef = plain(charged[0].coef)
    fixed = {"kl_ctrl.type": "fixed", "kl_ctrl.kl_coef": coef}
    return {"use_kl_in_reward": True, "kl_penalty": charged[0].estimator, **fixed}


def check_options(config: Any, wanted: Mapping[str, Any], name: str, place: str) -> None:
    """InputError naming the first option of verl at `place` that is not as the method `name` wants it."""
    if config is None:
        raise InputError(f"{name} was called without verl's configuration: call it as verl's trainer does, with config")
    for path, value in wanted.items():
        found = setting(config, path)
        if ALIASES.get(str(found), found) != value and not (found is None and value in (False, 0.0)):
            shown = str(value).lower() if isinstance(value, bool) else value
            raise InputError(f"{name} wants {place}.{path}={shown}, but verl was started with {found}: set it so")


def budget(method: PolicyGradient, config: Any, name: str) -> int | None:
    """The response budget in tokens that a fixed-length average divides by; None for any other average."""
    if not isinstance(method.aggregate, FixedLength):
        return None
    found = method.aggregate.length or setting(config, "loss_scale_factor")
    if found is None:
        raise InputError(
            f"{name} divides by the response budget, and verl would take the width of each micro-batch: set "
            f"{ACTOR}.loss_scale_factor to data.max_response_length"
        )
    return int(found)


def part_of_whole(aggregate: Aggregate, live: Bool[Tensor, "B T"], info: Mapping[str, Any], name: str) -> Any:
    """What the average over a micro-batch counts for in that over verl's global batch.

    info: verl's `global_batch_info`. 1 where verl says nothing of the global batch; then each micro-batch is averaged
    alone. verl averages the gradients of its `dp_size` ranks, so the share is multiplied by it.
    """
    by_token = isinstance(aggregate, TokenMean)
    which = "batch_num_tokens" if by_token else "global_batch_size"
    whole, ranks = info.get(which), info.get("dp_size") or 1
    if whole is None and ranks > 1:
        raise InputError(f"{name} on {ranks} ranks needs {which} in verl's global_batch_info: it is not there")
    here = live.sum() if by_token else live.any(dim=1).sum()
    return 1.0 if whole is None else here.double() / whole * ranks
