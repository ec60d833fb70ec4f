"""The one place where verl is imported, and where its configurations are read."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, runtime_checkable

from rekindle.errors import InputError


@runtime_checkable
class Settings(Protocol):
    """A configuration of verl: a dataclass of its own, a DictConfig, or a dict."""

    def get(self, key: str, default: Any = None, /) -> Any:
        """The value of `key`, `default` where there is none."""
        ...


def verl_module(name: str) -> Any:
    """The module `name` of verl; InputError in one sentence where verl, or what it needs, is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        lacking = error.name or name
        what = "verl is not installed" if lacking.split(".")[0] == "verl" else f"verl needs {lacking}, which is missing"
        raise InputError(
            f"{what}: install verl 0.9.1 into an environment of its own, with Rekindle beside it"
        ) from error


def setting(config: Any, path: str) -> Any:
    """The value at the dotted `path` of a configuration, None where some part of it is absent."""
    value = config
    for key in path.split("."):
        if not isinstance(value, Settings):
            return None
        value = value.get(key, None)
    return value
