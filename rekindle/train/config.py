"""How all layers of configuration become one run: method < the task's profile < run.toml < command line.

What `RunConfig` does not name is an option of the method's record (`descent.lr`, `objective.high`, `terms.0.coef`).
Unknown names are refused everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rekindle.errors import InputError
from rekindle.train import options
from rekindle.train.aliases import translate
from rekindle.train.checks import check
from rekindle.train.settings import RunConfig

Origin = Literal["default", "method", "profile", "run.toml", "flag", "--set"]
RECORDED = "run"
"""The table of run.toml that only records what was resolved: never an input."""


@dataclass(frozen=True)
class Resolved:
    """What a run will do: the configuration, the method's record, where each value came from, and notes to print."""

    config: RunConfig
    record: Any
    origin: Mapping[str, Origin]
    notes: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the run and of the record, by dotted path."""
        return {**self.config.flat(), **options.flatten(self.record)}

    @property
    def record_hash(self) -> str:
        """The hash of the resolved record."""
        return options.record_hash(self.record)


def early(name: str, toml: Mapping[str, Any] | None, sets: Sequence[str], flags: Mapping[str, Any]) -> Any:
    """What the user says of the option `name`, None where nothing: the task must be known before `resolve`."""
    said = {**_asked(sets, flags), **flags}
    value = said[name] if name in said else dotted(toml or {}).get(name)
    return None if value == "none" else value


def resolve(
    method: str,
    record: Any,
    *,
    essence: Sequence[str] = (),
    profile: Mapping[str, Any] | None = None,
    toml: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Resolved:
    """The resolved run. Raises InputError, one sentence with its remedy, for anything that cannot work.

    essence: the slots of the record that a profile may not touch. toml: the parsed run.toml. sets: `PATH=VALUE` texts.
    flags: option -> value of the command line's own flags; those not given are not in it.
    """
    layers: tuple[tuple[Origin, Mapping[str, Any]], ...] = (
        ("profile", profile or {}),
        ("run.toml", dotted(toml or {})),
        ("flag", flags or {}),
        ("--set", _asked(sets, flags or {})),
    )
    for path in profile or {}:
        _refuse_essence(path, essence)
    config, notes = RunConfig(method=method), list[str]()
    origin: dict[str, Origin] = {path: "default" for path in config.flat()}
    for name, values in layers:
        values, more = translate(values, config.flat(), record)
        notes += more
        for path, value in values.items():
            config, record = _set(config, record, path, value)
            origin[path] = name
    if config.method != method:
        raise InputError(f"run.toml is of the method '{config.method}', not of '{method}': name one of the two")
    config = _one_source(config, origin)
    check(record, config.rollout)
    known = [*config.flat(), *options.flatten(record)]
    return Resolved(config, record, {path: origin.get(path, "method") for path in known}, tuple(notes))


def _asked(sets: Sequence[str], flags: Mapping[str, Any]) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    for path, value in map(options.parse_assignment, sets):
        if (path in asked and asked[path] != value) or (path in flags and flags[path] != value):
            raise InputError(f"'{path}' is given twice with two values: drop one")
        asked[path] = value
    return asked


def dotted(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A parsed run.toml as dotted paths; the table that only records is left out."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and not (not path and key == RECORDED):
            flat |= dotted(value, f"{path}{key}.")
        elif not isinstance(value, Mapping):
            flat[f"{path}{key}"] = tuple(value) if isinstance(value, list) else value
    return flat


def _set(config: RunConfig, record: Any, path: str, value: Any) -> tuple[RunConfig, Any]:
    ours, theirs = config.flat(), options.flatten(record)
    if path in ours:
        return options.override(config, path, value), record
    if path not in theirs:
        raise options.unknown_option(path, [*ours, *theirs])
    return config, options.override(record, path, value)


def _refuse_essence(path: str, essence: Sequence[str]) -> None:
    for slot in essence:
        if path == slot or path.startswith(slot + "."):
            raise InputError(f"the task's profile sets '{path}', the idea of this method: take it out of the profile")


def _one_source(config: RunConfig, origin: Mapping[str, Origin]) -> RunConfig:
    if config.data is not None and config.task is not None:
        if origin["task"] not in ("default", "profile"):
            raise InputError(f"task '{config.task}' and data '{config.data}' are both given: drop one")
        return replace(config, task=None)
    if config.data is None and config.task is None:
        raise InputError("there is nothing to train on: give --task NAME or --data FILE")
    return config
