"""What must hold between options before a run starts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rekindle.errors import InputError
from rekindle.train import options
from rekindle.train.settings import (
    Gives,
    Grouped,
    Labelling,
    PositiveSignal,
    Refuses,
    Rollout,
    WholePrompts,
    parts,
    samples_per_prompt,
    written_draws,
)
from rekindle.train.snapshots import TEACHER

LEAST: Mapping[str, int] = MappingProxyType(
    {
        **{"epochs": 1, "minibatches": 1, "micro_batch": 1},
        **{"lr": 0, "head_lr": 0, "weight_decay": 0, "grad_clip": 0, "beta1": 0, "beta2": 0},
    }
)
"""Numbers of `Descent` and the least that each may be: below it no update is made, or an update that goes uphill."""
BELOW: Mapping[str, int] = MappingProxyType({"beta1": 1, "beta2": 1})
"""What AdamW's shares of the past must stay below (Kingma and Ba 2015, algorithm 1)."""


def check_descent(record: Any) -> None:
    """InputError for a number of the optimiser that makes no update, or one that is none."""
    for path, value in options.flatten(record).items():
        part, _, name = path.rpartition(".")
        if not f".{part}".endswith(".descent") or name not in LEAST or not isinstance(value, int | float):
            continue
        if value < LEAST[name]:
            raise InputError(f"option '{path}' is {options.show(value)}: set it to {LEAST[name]} or more")
        if name in BELOW and value >= BELOW[name]:
            raise InputError(f"option '{path}' is {options.show(value)}: set it below {BELOW[name]}")


def check(record: Any, rollout: Rollout) -> None:
    """Raise InputError, one sentence with its remedy, for options that contradict each other."""
    check_traits(record)
    check_descent(record)
    check_cut(record)
    sampled = samples_per_prompt(record, rollout)
    if sampled < rollout.group:
        raise InputError(
            f"rollout.votes is {sampled}, fewer than the {rollout.group} responses that are trained on: "
            f"set rollout.votes={rollout.group} or more, or a smaller rollout.group"
        )
    _check_temperature(record, rollout.temperature)
    if rollout.group < 2 and (part := _compares_groups(record)):
        raise InputError(
            f"rollout.group is {rollout.group}, but {part} compares a prompt's responses: set rollout.group=2 or more"
        )
    if rollout.top_p < 1:
        raise InputError("truncated sampling needs its correction, which is not there: set rollout.top_p=1")
    if rollout.top_k > 0:
        raise InputError("truncated sampling needs its correction, which is not there: set rollout.top_k=0")


def _check_temperature(record: Any, temperature: float) -> None:
    """InputError where written rows would be scored at another temperature than 1; a teacher's may be any."""
    written = bool(written_draws(record))
    if temperature != 1 and written and TEACHER not in record.passes():
        raise InputError(
            f"rollout.temperature is {temperature:g}, and this method learns from written rows, whose likelihood is "
            "taken at temperature 1: set rollout.temperature=1"
        )


def check_cut(record: Any) -> None:
    """InputError where minibatches tear apart the responses that a part compares."""
    flat = options.flatten(record)
    paired = next((type(part).__name__ for part in parts(record) if isinstance(part, WholePrompts)), None)
    if paired is not None and any(value is True for path, value in flat.items() if path.endswith("cut_groups")):
        raise InputError(f"descent.cut_groups=true tears the pairs of {paired} apart: set it to false")


def check_traits(record: Any) -> None:
    """InputError where one part gives what another part of the same record refuses."""
    there = list(parts(record))
    for part in (p for p in there if isinstance(p, Refuses)):
        for other in (p for p in there if isinstance(p, Gives)):
            shared = [trait for trait in other.gives if trait in part.refuses]
            if shared:
                a, b = type(part).__name__, type(other).__name__
                raise InputError(f"{a} does not go with {b}, for that brings {shared[0]}: take one of the two out")


def warnings(record: Any) -> list[str]:
    """What a user should know of a combination that is allowed because it was asked for."""
    there = list(parts(record))
    cures = [type(part).__name__ for part in there if isinstance(part, PositiveSignal) and part.positive_signal is True]
    unlabelled = any(isinstance(part, Labelling) and part.needs_truth is False for part in there)
    if not cures or not unlabelled:
        return []
    return [
        f"{cures[0]} makes the answers of unanimous groups likelier, and without labels they may be unanimously wrong: "
        "watch vote accuracy and held-out maj@k"
    ]


def _compares_groups(record: Any) -> str | None:
    for part in parts(record):
        if isinstance(part, Grouped) and part.needs_group:
            return options.flatten({"x": part})["x"]
    return None
