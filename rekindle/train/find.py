"""A method by its name: a slug of the shelf, or a function in the user's own file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from rekindle import methods
from rekindle.core.method import Card, PolicyGradient
from rekindle.errors import InputError
from rekindle.tokens.collect import Answers
from rekindle.tokens.plugins import load_function


@dataclass(frozen=True)
class Found:
    """A method found by name. card: None for a function of the user's file that has no CARD beside it."""

    name: str
    card: Card | None
    make: Callable[[], object]

    @property
    def essence(self) -> tuple[str, ...]:
        """The slots that are the method's idea; () where there is no card."""
        return self.card.essence if self.card else ()


def find_method(name: str) -> Found:
    """The method `name`: a slug (`evol_rl`, `evol-rl`) or `FILE.py:function`. InputError where there is none."""
    if ":" in name or name.endswith(".py"):
        function = load_function(name)
        return Found(name, vars(sys.modules[function.__module__]).get("CARD"), function)
    module = methods.load(name)
    return Found(name.replace("-", "_"), module.CARD, module.method)


def make_method(found: Found) -> PolicyGradient:
    """The record of parts; InputError where the user's function returns something that is no method."""
    record = found.make()
    if not isinstance(record, PolicyGradient) or not isinstance(record.collect, Answers):
        kind = type(record).__name__
        raise InputError(f"'{found.name}' returned {kind}: return a PolicyGradient that collects Answers")
    return record
