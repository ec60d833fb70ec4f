"""Reward functions by name, `[PREFIX:]FILE.py:function[=weight]` or a module in the file's place, and from Python."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.plugins import file_of, load_object
from rekindle.tokens.rewards.base import Convention
from rekindle.tokens.rewards.conventions import Areal, OpenRlhf, Trl, verl_of
from rekindle.tokens.rewards.taskset import from_verifiers, load_taskset
from rekindle.tokens.rewards.weighted import Reward, Rewards

PREFIXES = ("trl", "verl", "openrlhf", "areal", "verifiers")
"""What may stand before a function's place, to say how it is called."""
FORM = "FILE.py:function[=weight]"


def from_trl(function: Callable[..., Any], name: str | None = None, weight: float = 1.0) -> Reward:
    """A reward function of TRL (or Tunix), whatever its parameters are called."""
    return Reward(name or name_of(function), function, weight, Trl())


def from_verl(compute_score: Callable[..., Any], name: str | None = None, weight: float = 1.0) -> Reward:
    """verl's `compute_score`, of the naive or of the batch manager by its parameters."""
    label = name or name_of(compute_score)
    return Reward(label, compute_score, weight, verl_of(label, compute_score))


def from_openrlhf(reward_func: Callable[..., Any], name: str | None = None, weight: float = 1.0) -> Reward:
    """OpenRLHF's `reward_func`."""
    return Reward(name or name_of(reward_func), reward_func, weight, OpenRlhf())


def from_areal(reward_fn: Callable[..., Any], name: str | None = None, weight: float = 1.0) -> Reward:
    """AReaL's `reward_fn`."""
    return Reward(name or name_of(reward_fn), reward_fn, weight, Areal())


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called: its own name, that of what a partial wraps, else of an object's class."""
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    return inner.__name__ if inspect.isroutine(inner) else type(inner).__name__


def load_rewards(specs: Sequence[str]) -> Rewards:
    """The reward functions of the command line, `[PREFIX:]FILE.py:function[=weight]`; InputError naming what is wrong.

    A dotted module may stand in the file's place. Without a prefix a function is called as its parameter names say.
    A file is run once, whatever the number of its functions.
    """
    opened: dict[str, ModuleType] = {}
    return Rewards(tuple(_reward(spec, opened) for spec in specs))


def reward_files(specs: Sequence[str]) -> list[str]:
    """The files that hold the functions, as the specs name them; of a module, its own file where it has one."""
    found = [file_of(_split(spec)[1]) for spec in specs]
    return list(dict.fromkeys(file for file in found if file is not None))


def _reward(spec: str, opened: dict[str, ModuleType]) -> Reward:
    prefix, place, name, weight = _split(spec)
    if prefix == "verifiers":
        return replace(from_verifiers(load_taskset(f"{place}:{name}", opened), _label(place, name)), weight=weight)
    function = load_object(f"{place}:{name}", opened)
    if inspect.isclass(function):
        raise InputError(f"reward '{spec}': '{name}' is a class: name a function or an object that can be called")
    label = _label(place, name)
    return Reward(label, function, weight, _convention(prefix, label, function))


def _convention(prefix: str | None, label: str, function: Callable[..., Any]) -> Convention | None:
    if prefix == "verl":
        return verl_of(label, function)
    return {"trl": Trl(), "openrlhf": OpenRlhf(), "areal": Areal()}.get(prefix or "")


def _label(place: str, name: str) -> str:
    return f"{Path(place).name if place.endswith('.py') else place}:{name}"


def _split(spec: str) -> tuple[str | None, str, str, float]:
    """(prefix, file or module, function, weight)."""
    head, _, tail = spec.rpartition(":")
    name, equals, weight = tail.partition("=")
    first, colon, rest = head.partition(":")
    prefix, place = (first, rest) if colon and first in PREFIXES else (None, head)
    if not place or not name or (prefix is None and head in PREFIXES[1:]):
        raise InputError(f"reward '{spec}': not of the form {FORM} (before it maybe {', '.join(PREFIXES)} and a colon)")
    try:
        number = float(weight) if equals else 1.0
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"reward '{spec}': the weight '{weight}' is not a number: write FILE.py:function=0.5")
    return prefix, place, name, number
