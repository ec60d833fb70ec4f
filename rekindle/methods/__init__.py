"""One file a published method: its card, and its record of parts. The module name is the method's name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol, cast, runtime_checkable

from rekindle.core.evolution import Method
from rekindle.core.method import Card
from rekindle.core.stages import Stages
from rekindle.errors import unknown


@runtime_checkable
class MethodModule(Protocol):
    """What a method's module offers."""

    CARD: Card

    def method(self) -> Method | Stages:
        """The record, with the method's own defaults."""
        ...


def names() -> tuple[str, ...]:
    """The names of all methods, sorted: the modules of this package."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> MethodModule:
    """The module of the method `name` ("evol_rl" or "evol-rl"); InputError with the nearest names if there is none."""
    slug = name.replace("-", "_")
    if slug not in names():
        raise unknown("method", name, names())
    return cast(MethodModule, importlib.import_module(f"{__name__}.{slug}"))
