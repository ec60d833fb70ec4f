"""A method by its name: a slug of the shelf, or a function in the user's own file."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rekindle import methods
from rekindle.core.evolution import Evolution, Method
from rekindle.core.method import Card, PolicyGradient
from rekindle.core.stages import Stages
from rekindle.errors import InputError
from rekindle.tokens.collect import Answers
from rekindle.tokens.plugins import load_function
from rekindle.tokens.trials import Responses
from rekindle.train.combine import combine, combined_card


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
    """The method `name`: `evol_rl` (or `evol-rl`), `A+B`, or `FILE.py:function`. InputError where there is none."""
    if ":" in name or name.endswith(".py"):
        function = load_function(name)
        return Found(name, vars(sys.modules[function.__module__]).get("CARD"), function)
    if "+" in name:
        names = tuple(part.strip().replace("-", "_") for part in name.split("+"))
        twice = [part for part in names if names.count(part) > 1]
        if twice:
            raise InputError(f"'{name}' names '{twice[0]}' twice: name each method once")
        card = combined_card(names)
        return Found("+".join(names), card, lambda: combine(names))
    module = methods.load(name)
    return Found(name.replace("-", "_"), module.CARD, module.method)


def make_method(found: Found) -> Method | Stages:
    """The record of parts; InputError where the user's function needs arguments, raises, or returns no method."""
    record = _called(found) if ":" in found.name else found.make()
    if isinstance(record, Stages) and any(isinstance(method, Evolution) for method in record.methods):
        raise InputError(f"'{found.name}' has a search among its stages: train one after the other (--model RUN/final)")
    known = isinstance(record, PolicyGradient | Stages | Evolution)
    if not known or not all(isinstance(method.collect, Answers | Responses) for method in record.methods):
        kind = type(record).__name__
        raise InputError(
            f"'{found.name}' returned {kind}: return a PolicyGradient (or Stages) that collects Answers, or an "
            "Evolution that collects Responses"
        )
    return record


def _called(found: Found) -> object:
    """What the user's function returns. A method of the package that raises is a bug and keeps its traceback."""
    needed = _required(found.make)
    if needed:
        raise InputError(
            f"'{found.name}' needs arguments ({', '.join(needed)}): write a function without any, or give them defaults"
        )
    try:
        return found.make()
    except (Exception, SystemExit) as error:
        file = Path(found.name.rpartition(":")[0]).expanduser().resolve()
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        where = f", line {lines[-1]}" if lines else ""
        raise InputError(f"'{found.name}'{where} raised {type(error).__name__}: {error}: fix the function") from error


def _required(function: Callable[..., object]) -> list[str]:
    """Names of the parameters that a call has to give."""
    lists = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in lists]
