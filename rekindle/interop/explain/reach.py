"""The method of ours, and the options on top of it, that make a wanted record."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rekindle import methods
from rekindle.core.method import PolicyGradient
from rekindle.errors import InputError
from rekindle.interop.explain.said import slots
from rekindle.interop.explain.wanted import Wanted
from rekindle.train import options
from rekindle.train.combine import combine
from rekindle.train.find import find_method

Candidate = tuple[str, PolicyGradient]

HOSTS = ("grpo", "entropy_bonus", "ttrl", "ttrl_entropy")
"""Methods whose terms others are combined with: none, a bonus, a KL, both."""
ROUNDS = 3
"""A part that is exchanged by name has other options in the next round."""


@dataclass(frozen=True)
class Reached:
    """A method's name, the options that make it the wanted record, and what had to be left out."""

    method: str
    options: Mapping[str, Any]
    record: PolicyGradient
    dropped: tuple[str, ...]


def reach(wanted: Wanted) -> Reached:
    """The method that needs the fewest options; of what no method can have, as little as possible is left out."""
    labels = list(wanted.optional)
    for count in range(len(labels) + 1):
        for dropped in itertools.combinations(labels, count):
            record = wanted.without(dropped)
            found = _best(record, _singles()) or _best(record, _pairs())
            if found is not None:
                return Reached(found[0], found[1], record, dropped)
    raise InputError("no method of ours has these parts together: write a method file (FILE.py:function)")


def _best(record: PolicyGradient, candidates: Iterable[Candidate]) -> tuple[str, dict[str, Any]] | None:
    """The candidate that needs the fewest options, counted by `_cost`; the first of several."""
    near = [(name, start) for name, start in candidates if _kinds(start) == _kinds(record)]
    found = [(name, made) for name, start in near if (made := _made(start, record)) is not None]
    return min(found, key=lambda pair: _cost(*pair), default=None)


def _kinds(record: PolicyGradient) -> list[tuple[str, type]]:
    """The classes of the objective and of all parts in tuples: no option changes these."""
    return [(path, type(part)) for path, part in slots(record) if path == "objective" or path[-1].isdigit()]


def _cost(name: str, made: Mapping[str, Any]) -> float:
    """Options, and more where a method is not taken for its own idea: a host is there to be changed."""
    idea = find_method(name).essence
    replaced = sum(slot in made for slot in idea)
    return float(len(made) + (replaced if name in HOSTS else 1.5 + 5 * replaced))


@functools.cache
def _singles() -> tuple[Candidate, ...]:
    """Every method that is one from start to end and descends."""
    made = ((name, methods.load(name).method()) for name in methods.names())
    return tuple((name, record) for name, record in made if isinstance(record, PolicyGradient))


@functools.cache
def _pairs() -> tuple[Candidate, ...]:
    """Every host with another method's idea, where the two go together."""
    found = []
    for host, (name, _) in itertools.product(HOSTS, _singles()):
        if host != name:
            with contextlib.suppress(InputError):  # the two claim one slot
                found.append((f"{host}+{name}", combine((host, name))))
    return tuple(found)


def _made(start: PolicyGradient, wanted: PolicyGradient) -> dict[str, Any] | None:
    """The options that make `start` the wanted record, None where no options do."""
    record, given = start, {}
    for _ in range(ROUNDS):
        changes = options.diff(record, wanted)
        if not changes:
            return given
        for change in changes:
            if change.old is None and change.path not in options.flatten(record):
                return None
            plain = isinstance(change.new, bool | int | float | str | None)
            value = change.new if plain else type(change.new).__name__
            try:
                record = options.override(record, change.path, "none" if value is None else value)
            except InputError:
                return None
            given[change.path] = value
    return None
