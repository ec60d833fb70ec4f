"""The tasks that ship with Rekindle, by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

from rekindle.errors import unknown
from rekindle.tokens.tasks.base import Derivation, Task

_MODULES: Mapping[str, str] = MappingProxyType(
    {
        "reduce": "rekindle.tokens.tasks.reduce",
        "digit_sum": "rekindle.tokens.tasks.digit_sum",
    }
)
TASKS: tuple[str, ...] = tuple(_MODULES)
"""Names that `load_task` knows. A user's own data file is read by `rekindle.tokens.tasks.files`."""

__all__ = ["TASKS", "Derivation", "Task", "load_task"]


def load_task(name: str) -> Task:
    """The shipped task `name`, or reasoning-gym's (`rg:chain_sum`); raises `InputError` with the nearest names."""
    if name.startswith(("rg:", "reasoning_gym/", "reasoning-gym/")):
        return importlib.import_module("rekindle.tokens.tasks.reasoning_gym").task(name)
    if name not in _MODULES:
        raise unknown("task", name, TASKS)
    return importlib.import_module(_MODULES[name]).task()
