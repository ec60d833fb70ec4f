"""Whether the other packages put a record into TRL's trainer or verl's registries: they are asked, and may refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rekindle import methods
from rekindle.core.method import PolicyGradient
from rekindle.errors import InputError
from rekindle.interop.trl.fitting import refuse_parts
from rekindle.interop.trl.rewards import GroupReward
from rekindle.interop.verl.fits import refuse_estimator, refuse_loss, refuse_run
from rekindle.tokens.collect import Answers

SLOTS = ("prepare", "advantage", "modulate", "objective", "keep", "aggregate", "terms")
"""The slots that the bridges carry over."""
OWN = "rekindle train {name}"
BRIDGES = {
    "trl": "rekindle.interop.trl.RekindleTrainer(method={name!r})",
    "verl": "rekindle.interop.verl.register({name!r})",
}


def bridge(rival: str, name: str, record: Any) -> str:
    """What trains the method `name`, whose record it is, with all parts of `SLOTS` in them.

    A run of our own where the bridge to `rival` refuses the record, or it is none that descends from start to end.
    """
    own = OWN.format(name=name)
    if not isinstance(record, PolicyGradient):
        return own
    try:
        REFUSALS[rival](name, record)
    except InputError:
        return own
    return BRIDGES[rival].format(name=name)


def _trl(name: str, record: PolicyGradient) -> None:
    """InputError where `RekindleTrainer` refuses the record with a reference and the rewards that it asks for."""
    refuse_parts(record, _rewards(name, record.collect), reference=True)


def _rewards(name: str, collect: Any) -> list[GroupReward]:
    """The reward that scores as the record's own label and shapes; none where there is nothing but a verifier.

    InputError where no reward can: a reward of ours sees texts alone.
    """
    if not isinstance(collect, Answers) or not (collect.label.votes or collect.shape):
        return []
    reward = GroupReward(label=collect.label, shape=collect.shape)
    try:
        reward(["?"] * 3, ["1", "2", "1 2"])
    except AttributeError as error:
        raise InputError(f"{name} cannot score texts alone ({error}): train it by `rekindle train`") from error
    return [reward]


def _verl(name: str, record: PolicyGradient) -> None:
    """InputError where `register` refuses the name or the record."""
    if name not in methods.names():
        raise InputError(f"verl's registries take '{name}' as a record only: pass one and a name to register")
    refuse_run(record, name)
    refuse_loss(record.at(0.0), name)
    refuse_estimator(record.at(0.0), name)


REFUSALS: Mapping[str, Callable[[str, PolicyGradient], None]] = {"trl": _trl, "verl": _verl}
