"""Parts by name: `--set collect.label=verified` puts another part of the slot's kind, with its defaults, in place."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import MISSING, fields, is_dataclass
from typing import Any


def named_part(old: Any, hint: Any, name: str) -> Any:
    """The part called `name` (`Verified` or `verified`) among those that could stand in for `old`; None if none is."""
    found = [kind for kind in choices(old, hint) if name in (kind.__name__, _snake(kind.__name__))]
    return found[0]() if found else None


def part_names(old: Any, hint: Any) -> list[str]:
    """The names under which parts can stand in for `old`, as they are typed; none for what is no part."""
    return [_snake(kind.__name__) for kind in choices(old, hint)] if is_dataclass(old) else []


def choices(old: Any, hint: Any) -> list[type]:
    """Parts of the slot's kind that need no arguments, from the modules of the present part and of the slot."""
    if not isinstance(hint, type) or vars(hint).get("_is_protocol") is not True:
        return []
    names = (type(old).__module__, hint.__module__)
    modules = dict.fromkeys(sys.modules[name] for name in names if name in sys.modules)
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    fit = [kind for kind in kinds if is_dataclass(kind) and _complete(kind) and _fits(kind, hint)]
    return sorted(fit, key=lambda kind: kind.__name__)


def _fits(kind: Any, hint: Any) -> bool:
    """Whether a part can stand in the slot: protocols with `__call__` alone are told apart by its parameters."""
    taken = [list(inspect.signature(vars(c)["__call__"]).parameters) for c in (kind, hint) if "__call__" in vars(c)]
    return isinstance(kind(), hint) and (len(taken) < 2 or taken[0] == taken[1])


def _complete(kind: Any) -> bool:
    return all(f.default is not MISSING or f.default_factory is not MISSING for f in fields(kind))


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
