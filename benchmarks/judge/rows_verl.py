"""What is compared with verl: estimators, policy losses, averages over tokens, KL estimates, whole methods."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.judge import sides, verl_side
from benchmarks.judge.cases import WIDTH
from benchmarks.judge.row import TOLERANCE, Row
from rekindle.core.advantages import BatchWhitened, GroupNormalized, LeaveOneOut
from rekindle.core.aggregate import Aggregate, FixedLength, SequenceMean
from rekindle.core.method import Advantage, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.terms import KLToReference

SINGLE = "A group of one: verl keeps its raw score, ours is 0 (no comparison, no signal)."
GROUPED = ("ragged", "shaped scores", "constant groups")
LOSSES = ("ragged", "extreme", "idle rows")


def advantage(
    part: Advantage,
    estimator: str,
    kinds: tuple[str, ...],
    reason: str = "",
    tolerance: float = TOLERANCE,
    **flags: Any,
) -> Row:
    """An estimator of ours against one of verl's."""
    method = sides.record("grpo", advantage=part)
    return of_method(method, "advantage", estimator, kinds, reason, tolerance, **flags)


def of_method(
    method: PolicyGradient,
    name: str,
    estimator: str,
    kinds: tuple[str, ...],
    reason: str = "",
    tolerance: float = TOLERANCE,
    **flags: Any,
) -> Row:
    """The advantages of a whole record against an estimator of verl's."""
    return Row(
        method=name,
        flags=sides.flags(method, "prepare", "advantage", "modulate"),
        rival="verl",
        setting=_said(f"adv_estimator={estimator}", flags),
        kinds=kinds,
        ours=partial(sides.advantage, method),
        theirs=partial(verl_side.advantage, estimator=estimator, **flags),
        reason=reason,
        tolerance=tolerance,
    )


def loss(
    name: str,
    method: PolicyGradient,
    mode: str,
    aggregate: str = "token-mean",
    kinds: tuple[str, ...] = LOSSES,
    reason: str = "",
    pieces: int = 1,
    **flags: Any,
) -> Row:
    """A policy loss of ours on given advantages against one of verl's, in `pieces` micro-batches."""
    micro = f"; {pieces} micro-batches" if pieces > 1 else ""
    return Row(
        method=name,
        flags=sides.flags(method, "objective", "keep", "aggregate", "terms") + micro,
        rival="verl",
        setting=_said(f"loss_mode={mode}, loss_agg_mode={aggregate}", flags) + micro,
        kinds=kinds,
        ours=partial(sides.loss, method, pieces=pieces),
        theirs=partial(verl_side.loss, name=mode, aggregate=aggregate, pieces=pieces, **flags),
        reason=reason,
    )


def whole(
    slug: str, estimator: str, aggregate: str, flags: Mapping[str, Any], kinds: tuple[str, ...], **algo: Any
) -> Row:
    """A method of ours from scores to gradient against verl's recipe for it."""
    method = sides.record(slug)
    return Row(
        method=f"{slug} (whole)",
        flags=sides.flags(method, "advantage", "objective", "aggregate", "terms"),
        rival="verl",
        setting=_said(f"adv_estimator={estimator}, loss_mode=vanilla, loss_agg_mode={aggregate}", {**algo, **flags}),
        kinds=kinds,
        ours=partial(sides.whole, method),
        theirs=partial(verl_side.whole, estimator=estimator, name="vanilla", aggregate=aggregate, flags=flags, **algo),
    )


def penalty(estimator: str, kind: str, kinds: tuple[str, ...], reason: str = "") -> Row:
    """A KL estimate as a loss; our surrogate is switched off by advantages of 0."""
    term = KLToReference(coef=0.1, estimator=estimator)  # type: ignore[arg-type]
    method = sides.record("grpo", terms=(term,))
    return Row(
        method=f"KL to the reference, {estimator}",
        flags=sides.flags(method, "terms"),
        rival="verl",
        setting=f"kl_penalty({kind!r}), kl_loss_coef=0.1, token-mean",
        kinds=kinds,
        ours=partial(sides.terms, method),
        theirs=partial(verl_side.kl, kind=kind, coef=0.1),
        reason=reason,
    )


def rows() -> dict[str, Row]:
    """Every row that needs no method beyond the first ones."""
    group, ddof1 = GroupNormalized(), BatchWhitened(ddof=1)
    plain = GroupNormalized(std="none")
    vectorized = "verl's vectorised form works in float32, whatever it is given."
    return {
        "verl-grpo": advantage(group, "grpo", GROUPED),
        "verl-grpo-singleton": advantage(group, "grpo", ("singleton groups",), SINGLE),
        "verl-grpo-float32": advantage(group, "grpo", ("float32",), ROUNDED),
        "verl-grpo-vectorized": advantage(group, "grpo_vectorized", ("shaped scores",), vectorized),
        "verl-dr-grpo": advantage(plain, "grpo", GROUPED, norm_adv_by_std_in_grpo=False),
        "verl-rloo": advantage(LeaveOneOut(), "rloo", GROUPED),
        "verl-rloo-singleton": advantage(LeaveOneOut(), "rloo", ("singleton groups",), SINGLE),
        "verl-rloo-vectorized": advantage(LeaveOneOut(), "rloo_vectorized", (*GROUPED, "singleton groups")),
        "verl-whitened": advantage(ddof1, "reinforce_plus_plus_baseline", GROUPED, COUNT, 1e-8),
        **_losses(),
        "verl-grpo-whole": whole("grpo", "grpo", "token-mean", {}, GROUPED),
        "verl-dr-grpo-whole": whole(
            "dr_grpo", "grpo", "seq-mean-token-sum-norm", {"clip_ratio_c": 1e6}, GROUPED, norm_adv_by_std_in_grpo=False
        ),
        "verl-rloo-whole": whole("rloo", "rloo", "token-mean", {}, GROUPED),
        "verl-dapo-whole": whole(
            "dapo", "grpo", "token-mean", {"clip_ratio_high": 0.28, "clip_ratio_c": 10.0}, GROUPED
        ),
        "verl-k1": penalty("k1", "k1", LOSSES),
        "verl-k2": penalty("k2", "k2", LOSSES),
        "verl-k3": penalty("k3", "low_var_kl", LOSSES),
        "verl-k2-beyond": penalty("k2", "k2", ("beyond 20",), BOUND),
    }


ROUNDED = (
    "Sixteen equal float32 rewards of 0.7: verl's mean is off by a rounding, which its 1e-6 magnifies to a false "
    "advantage for every row; ours tests max == min and is exactly 0."
)
BOUND = "verl clamps log-ratios to +-20 for k3 alone, ours does for every estimate (no gradient beyond)."
COUNT = "verl's masked mean divides by the number of tokens + 1e-8."


def _losses() -> dict[str, Row]:
    dual = sides.record("grpo")
    ppo = sides.record("grpo", objective=Clip())
    by: dict[str, Aggregate] = {"seq": SequenceMean(), "sum": FixedLength(1), "norm": FixedLength(WIDTH)}
    kept = {name: sides.record("grpo", aggregate=part) for name, part in by.items()}
    return {
        "verl-ppo": loss("clipped surrogate, dual clip", dual, "vanilla", kinds=(*LOSSES, "beyond 20", "empty rows")),
        "verl-ppo-micro": loss("clipped surrogate, dual clip", dual, "vanilla", pieces=4),
        "verl-ppo-without": loss("clipped surrogate", ppo, "vanilla", clip_ratio_c=1e6),
        "verl-seq-mean": loss("sequence mean", kept["seq"], "vanilla", "seq-mean-token-mean", (*LOSSES, "empty rows")),
        "verl-seq-sum": loss("sequence sum", kept["sum"], "vanilla", "seq-mean-token-sum", (*LOSSES, "empty rows")),
        "verl-norm": loss("fixed length", kept["norm"], "vanilla", "seq-mean-token-sum-norm", (*LOSSES, "empty rows")),
    }


def _said(first: str, flags: Mapping[str, Any]) -> str:
    return ", ".join([first, *(f"{name}={value}" for name, value in flags.items())])
