"""Records made for the tests of `explain`: parts as the conformance matrix prints them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_origin, get_type_hints

from rekindle import methods
from rekindle.core.method import PolicyGradient
from rekindle.interop.explain.answer import TABLES
from rekindle.interop.explain.matrix import Row, Shown
from rekindle.train.config import Resolved, resolve
from rekindle.train.find import find_method, make_method

KINDS = {kind.__name__: kind for table in TABLES.values() for kind in table if isinstance(kind, type)}
SLOTS = {
    "advantage": (
        "GroupNormalized",
        "LeaveOneOut",
        "BatchWhitened",
        "Score",
        "LengthWeightedBaseline",
        "PerMixedGroup",
    ),
    "objective": ("Clip", "CappedWeight", "SoftGate", "Likelihood", "KLCov", "ClipCov"),
    "aggregate": ("TokenMean", "SequenceMean", "FixedLength", "SamplerWeighted"),
    "terms": ("KLToReference", "EntropyBonus", "AdaptiveBonus", "ValueLoss"),
    "keep": ("TopEntropy",),
    "prepare": ("KLInReward", "Returns"),
    "modulate": ("WhitenTokens",),
    "after": ("FollowEntropy",),
}
ALSO = {"ReturnToGo": "advantage", "OverValue": "advantage"}
WHERE = {name: slot for slot, names in SLOTS.items() for name in names} | ALSO


def resolved(name: str, *sets: str) -> Resolved:
    """The method with its own numbers, as `rekindle explain` takes it."""
    found = find_method(name)
    return resolve(found.name, make_method(found), essence=found.essence, sets=sets)


def part(shown: Shown) -> Any:
    """A part from how it is printed."""
    kind = KINDS[shown.name]
    hints = get_type_hints(kind)
    real = {name for name, hint in hints.items() if hint is float}
    unset = {name for name, v in shown.options.items() if v == "none" and get_origin(hints[name]) is not Literal}
    said = {name: None if name in unset else v for name, v in shown.options.items()}
    inner = {name: part(v) if isinstance(v, Shown) else v for name, v in said.items()}
    return kind(**{name: float(v) if name in real else v for name, v in inner.items()})


def known(row: Row) -> bool:
    """Whether all parts of the row have a translator, and its setting names flags of this trainer."""
    return (
        bool(row.given)
        and "greedy" not in str(row.besides)
        and all(shown.name in WHERE for shown in row.parts)
        and "Trainer" not in row.setting
    )


def record_of(row: Row) -> Resolved:
    """GRPO with the row's parts in their slots."""
    base = resolved("grpo", "rollout.max_tokens=9")  # the width of the matrix's rows
    record: PolicyGradient = methods.load("grpo").method()  # type: ignore[assignment]
    for shown in row.parts:
        slot, made = WHERE[shown.name], part(shown)
        old = vars(record)[slot]
        record = replace(record, **{slot: (*old, made) if isinstance(old, tuple) else made})
    return replace(base, record=record)
