"""What is compared with TRL: every loss type that has a counterpart here, and the advantages of its trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.judge import sides, trl_side
from benchmarks.judge.cases import WIDTH
from benchmarks.judge.row import TOLERANCE, Row
from rekindle.core.advantages import GroupNormalized, LeaveOneOut
from rekindle.core.aggregate import FixedLength, SequenceMean
from rekindle.core.method import Advantage, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.terms import EntropyBonus, KLToReference

LOSSES = ("ragged", "extreme", "idle rows")
SINGLE = "TRL computes rewards and advantages in float32."


def loss(
    name: str,
    method: PolicyGradient,
    kinds: tuple[str, ...] = LOSSES,
    reason: str = "",
    pieces: int = 1,
    **flags: Any,
) -> Row:
    """A loss of ours on given advantages against `_compute_loss`, in `pieces` micro-batches."""
    micro = f"; {pieces} micro-batches" if pieces > 1 else ""
    return Row(
        method=name,
        flags=sides.flags(method, "objective", "keep", "aggregate", "terms") + micro,
        rival="TRL",
        setting=", ".join(f"{flag}={value}" for flag, value in flags.items()) + micro,
        kinds=kinds,
        ours=partial(sides.loss, method, pieces=pieces),
        theirs=partial(trl_side.loss, pieces=pieces, **flags),
        reason=reason,
    )


def advantage(part: Advantage, reason: str, tolerance: float = TOLERANCE, **flags: Any) -> Row:
    """An estimator of ours against the advantages that the trainer gives its own rollouts."""
    method = sides.record("grpo", advantage=part)
    return Row(
        method="advantage",
        flags=sides.flags(method, "advantage"),
        rival="TRL",
        setting=", ".join(f"{flag}={value}" for flag, value in flags.items()),
        kinds=("even groups", "ungraded rows"),
        ours=partial(sides.advantage, method),
        theirs=partial(trl_side.advantage, **flags),
        reason=reason,
        tolerance=tolerance,
    )


def whole(slug: str, options: Mapping[str, Any], kinds: tuple[str, ...], **flags: Any) -> Row:
    """A method of ours from scores to gradient against the trainer's own scoring and loss."""
    method = sides.record(slug, options)
    return Row(
        method=f"{slug} (whole)",
        flags=sides.flags(method, "advantage", "objective", "aggregate"),
        rival="TRL",
        setting=", ".join(f"{flag}={value}" for flag, value in flags.items()),
        kinds=kinds,
        ours=partial(sides.whole, method),
        theirs=partial(trl_side.whole, **flags),
        reason=SINGLE,
        tolerance=1e-6,
    )


def rows() -> dict[str, Row]:
    """Every row that needs no method beyond the first ones."""
    ppo = sides.record("grpo", objective=Clip())
    by_row = ppo.replace(aggregate=SequenceMean())
    fixed = ppo.replace(aggregate=FixedLength(WIDTH))
    higher = ppo.replace(objective=Clip(high=1.28))
    dual = ppo.replace(objective=Clip(dual=4.0))
    sequence = by_row.replace(objective=Clip(low=0.99, high=1.01, level="sequence"))
    return {
        "trl-dapo": loss("clipped surrogate, token mean", ppo, loss_type="dapo"),
        "trl-dapo-micro": loss("clipped surrogate, token mean", ppo, pieces=4, loss_type="dapo"),
        "trl-clip-higher": loss("clip-higher, token mean", higher, loss_type="dapo", epsilon_high=0.28),
        "trl-bnpo": loss("clipped surrogate, token mean", ppo, loss_type="bnpo"),
        "trl-bnpo-micro": loss("clipped surrogate, token mean", ppo, ("ragged",), BNPO, 4, loss_type="bnpo"),
        "trl-grpo": loss("clipped surrogate, sequence mean", by_row, loss_type="grpo"),
        "trl-grpo-empty": loss("clipped surrogate, sequence mean", by_row, ("empty rows",), EMPTY, loss_type="grpo"),
        "trl-dr-grpo": loss("clipped surrogate, fixed length", fixed, loss_type="dr_grpo"),
        "trl-dr-grpo-empty": loss(
            "clipped surrogate, fixed length", fixed, ("empty rows",), EMPTY, loss_type="dr_grpo"
        ),
        "trl-delta": loss("dual clip", dual, loss_type="dapo", delta=4.0),
        "trl-beyond": loss("clipped surrogate, token mean", ppo, ("beyond 20",), BOUND, loss_type="dapo"),
        "trl-sequence": loss(
            "sequence ratio", sequence, loss_type="grpo", importance_sampling_level="sequence", epsilon=0.01
        ),
        **_terms(ppo),
        **_advantages(),
    }


BNPO = "TRL's bnpo averages over the tokens of each micro-batch, so it depends on how a batch is cut; ours never does."
EMPTY = "TRL counts a row without tokens in the mean over rows, ours (and verl) leaves it out."
BOUND = "TRL does not bound the log-ratio: a token at +24 has a ratio of 2.6e10; ours (and verl) stops at +-20."
BIASED = "By default TRL multiplies its KL estimate by the importance ratio; ours is the estimate."
K3 = "Our k3 is bounded by 10 in value (verl), TRL's is not."


def _terms(ppo: PolicyGradient) -> dict[str, Row]:
    kl = ppo.replace(terms=(KLToReference(coef=0.04),))
    bonus = ppo.replace(terms=(EntropyBonus(coef=0.01),))
    off = {"loss_type": "dapo", "beta": 0.04, "use_bias_correction_kl": False}
    return {
        "trl-kl": loss("KL to the reference, k3", kl, ("ragged",), **off),
        "trl-kl-extreme": loss("KL to the reference, k3", kl, ("extreme",), K3, **off),
        "trl-kl-corrected": loss(
            "KL to the reference, k3", kl, ("ragged",), BIASED, loss_type="dapo", beta=0.04, use_bias_correction_kl=True
        ),
        "trl-entropy": loss("entropy bonus", bonus, loss_type="dapo", entropy_coef=0.01),
    }


def _advantages() -> dict[str, Row]:
    first = ("even groups",)
    sequence = sides.record("rloo", objective=Clip(level="sequence"), aggregate=SequenceMean())
    rloo = advantage(LeaveOneOut(), SINGLE, 1e-6)
    return {
        "trl-rloo": replace(rloo, setting="RLOOTrainer", theirs=partial(trl_side.advantage, rloo=True)),
        "trl-rloo-loss": Row(
            method="sequence ratio",
            flags=sides.flags(sequence, "objective", "aggregate"),
            rival="TRL",
            setting="RLOOTrainer",
            kinds=("ragged",),
            ours=partial(sides.loss, sequence),
            theirs=trl_side.rloo_loss,
            reason=PRODUCT,
        ),
        "trl-grpo-whole": whole("grpo", {"advantage.eps": 1e-4}, first, loss_type="dapo", delta=3.0),
        "trl-ungraded": replace(
            whole("grpo", {"advantage.eps": 1e-4}, ("ungraded rows",), loss_type="dapo", delta=3.0),
            reason=UNGRADED,
            tolerance=TOLERANCE,
        ),
        "trl-dr-grpo-whole": whole("dr_grpo", {}, first, loss_type="dr_grpo", scale_rewards="none"),
        "trl-group": advantage(GroupNormalized(eps=1e-4), SINGLE, 1e-6, scale_rewards="group"),
        "trl-group-eps": advantage(GroupNormalized(), EPS, scale_rewards="group"),
        "trl-none": advantage(GroupNormalized(std="none"), SINGLE, 1e-6, scale_rewards="none"),
    }


UNGRADED = "TRL's row rewarded None has advantage 0 and stays in the token count; ours leaves the loss altogether."
PRODUCT = "TRL's RLOO clips the product of a row's token ratios, ours (and GSPO) their geometric mean."
EPS = "TRL adds 1e-4 to the standard deviation, ours 1e-6 (verl)."
