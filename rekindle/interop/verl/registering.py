"""`register`: a method of Rekindle under a name of verl's two registries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rekindle import methods
from rekindle.core.method import PolicyGradient
from rekindle.errors import InputError, unknown
from rekindle.interop.verl.estimators import Estimator
from rekindle.interop.verl.fits import refuse_estimator, refuse_loss, refuse_run
from rekindle.interop.verl.losses import PolicyLoss
from rekindle.interop.verl.reach import verl_module
from rekindle.interop.verl.shares import ACTOR, ALGORITHM, actor_options, algorithm_options
from rekindle.tokens.collect import Answers
from rekindle.train.options import override, show

PARTS = ("loss", "advantage")
OWN = Answers()


@dataclass(frozen=True, kw_only=True)
class Registered:
    """What was registered. flags: verl's options that go with it; left: what of the method verl does not do by them."""

    name: str
    parts: tuple[str, ...]
    flags: Mapping[str, Any] = field(default_factory=dict)
    left: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = [
            f"{path}={str(value).lower() if isinstance(value, bool) else value}" for path, value in self.flags.items()
        ]
        return "\n".join([*told, *(f"# {sentence}" for sentence in self.left)])


def register(
    method: PolicyGradient | str,
    name: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    parts: Sequence[str] = PARTS,
) -> Registered:
    """Register a method with verl as the policy loss and as the advantage estimator `name`, in this process.

    method: a record, or a method's name; `name` is then "rekindle_" and that name unless given. options: dotted option
    of the record -> value, as `rekindle train` takes them. parts: "loss", "advantage", or both. See `PolicyLoss` and
    `Estimator` for what is taken from verl. Registering the same again changes nothing. InputError where verl is
    missing, the name is taken, or a part of the method needs what verl does not hand over.
    """
    record, name = _record(method, options or {}), name or _name(method)
    for part in parts:
        if part not in PARTS:
            raise unknown("part to register", part, PARTS)
    refuse_run(record, name)
    record, flags = record.at(0.0), dict[str, Any]()
    algos = verl_module("verl.trainer.ppo.core_algos")
    places: list[tuple[Any, Any, PolicyLoss | Estimator]] = []
    if "loss" in parts:
        refuse_loss(record, name)
        made = PolicyLoss(method=record, name=name)
        places.append((algos.POLICY_LOSS_REGISTRY, algos.register_policy_loss, made))
        flags |= {f"{ACTOR}.policy_loss.loss_mode": name}
        flags |= {f"{ACTOR}.{path}": value for path, value in actor_options(record).items()}
    if "advantage" in parts:
        refuse_estimator(record, name)
        places.append((algos.ADV_ESTIMATOR_REGISTRY, algos.register_adv_est, Estimator(method=record, name=name)))
        flags |= {f"{ALGORITHM}.adv_estimator": name}
        flags |= {f"{ALGORITHM}.{path}": value for path, value in algorithm_options(record).items()}
    for table, _, function in places:
        if name in table and table[name] != function:
            raise InputError(f"verl has another '{name}' already: choose another name")
    for _, decorate, function in places:
        decorate(name)(function)
    return Registered(name=name, parts=tuple(parts), flags=flags, left=tuple(left(record)))


def left(method: PolicyGradient) -> list[str]:
    """What of a method is neither in the loss nor in the advantage: sentences for whoever starts verl."""
    told = []
    if not method.objective.separable:
        told.append(
            f"objective {show(method.objective)} looks at the whole minibatch, verl shows it a micro-batch: exact "
            "where a minibatch is one micro-batch on one rank"
        )
    if method.keep:
        told.append(
            "keep: the average is over the tokens kept in a micro-batch: exact where a minibatch is one of them"
        )
    collect = method.collect
    for slot in ("prompts", "label", "shape", "pick", "select", "columns") if isinstance(collect, Answers) else ():
        part = vars(collect)[slot]
        if part != vars(OWN)[slot]:
            shown = ", ".join(map(show, part)) if isinstance(part, tuple) else show(part)
            told.append(f"collect.{slot} {shown} is not in these functions: scores and prompts are what verl is given")
    return told


def _record(method: PolicyGradient | str, options: Mapping[str, Any]) -> PolicyGradient:
    made = methods.load(method).method() if isinstance(method, str) else method
    if not isinstance(made, PolicyGradient):
        kind = type(made).__name__
        raise InputError(f"{method} is a record of kind {kind}, which verl has no slot for: register a policy gradient")
    for path, value in options.items():
        made = override(made, path, value)
    return made


def _name(method: PolicyGradient | str) -> str:
    if not isinstance(method, str):
        raise InputError("a record has no name of its own: pass name=")
    return f"rekindle_{method.replace('-', '_')}"
