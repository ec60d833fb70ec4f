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
from rekindle.train.checks import check, warnings
from rekindle.train.corrected import corrected
from rekindle.train.remedies import stop_notes
from rekindle.train.searches import unused, without_descent
from rekindle.train.settings import RunConfig
from rekindle.train.staged import places

Origin = Literal["default", "method", "sampler", "profile", "run.toml", "flag", "--set", "launcher", "ranks"]
_RANK: Mapping[Origin, int] = {
    **{"default": 0, "method": 0, "sampler": 0},
    **{"profile": 1, "run.toml": 2, "flag": 3, "--set": 3},
}
_SOURCES = ("task", "data", "data_heldout", "data_ood")
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


def early_source(
    toml: Mapping[str, Any] | None, sets: Sequence[str], flags: Mapping[str, Any]
) -> tuple[str | None, str | None]:
    """(task, data) that `resolve` will choose, one of them None; the default task where nothing is said."""
    above = {**_asked(sets, flags), **flags}
    ranked = ((above, _RANK["flag"]), (dotted(toml or {}), _RANK["run.toml"]))
    rank = {n: next((r for values, r in ranked if n in values), _RANK["default"]) for n in ("task", "data")}
    said = {n: early(n, toml, sets, flags) if rank[n] else None for n in rank}
    if said["data"] == "":
        raise InputError("--data is empty: name a file, a folder or a hub id, or drop it")
    if said["data"] is not None and (said["task"] is None or rank["data"] >= rank["task"]):
        return None, str(said["data"])
    return str(said["task"] or "reduce"), None


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

    essence: the slots of the record that a profile does not touch (a note says what it would have set). toml: the
    parsed run.toml. sets: `PATH=VALUE` texts. flags: option -> value of the command line's flags, only those given.
    """
    fits, notes = _spared(without_descent(profile or {}, record), essence)
    layers: tuple[tuple[Origin, Mapping[str, Any]], ...] = (
        ("profile", fits),
        ("run.toml", dotted(toml or {})),
        ("flag", flags or {}),
        ("--set", _asked(sets, flags or {})),
    )
    config = RunConfig(method=method)
    origin: dict[str, Origin] = {path: "default" for path in config.flat()}
    for name, values in layers:
        values, more = translate(values, config.flat(), record)
        notes += more
        for path, value in values.items():
            for place in [path] if path in config.flat() else places(path, record):
                config, record = _set(config, record, place, value)
                origin[place] = name
    if config.method != method:
        raise InputError(f"run.toml is of the method '{config.method}', not of '{method}': name one of the two")
    config = _one_source(config, {n: _RANK[origin[n]] for n in _SOURCES})
    before = options.flatten(record)
    record, more = corrected(config, record)
    origin |= {path: "sampler" for path, value in options.flatten(record).items() if before.get(path, origin) != value}
    notes += more
    check(record, config.rollout)
    notes += warnings(record) + unused(record, origin) + stop_notes(config)
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


def _spared(profile: Mapping[str, Any], essence: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The profile without what it would set inside the method's idea, and a note for each such path."""
    inside = [p for p in profile if any(p == slot or p.startswith(f"{slot}.") for slot in essence)]
    notes = [f"the task's profile would set {p}={profile[p]}, which is this method's idea: left alone" for p in inside]
    return {path: value for path, value in profile.items() if path not in inside}, notes


def _one_source(config: RunConfig, rank: Mapping[str, int]) -> RunConfig:
    """The configuration with one of task and data: of two, that of the higher layer. rank: the layer of each."""
    if config.data is None and config.task is None:
        raise InputError("there is nothing to train on: give --task NAME or --data FILE")
    if config.data is not None and config.task is not None:
        if rank["task"] == rank["data"]:
            raise InputError(f"task '{config.task}' and data '{config.data}' are both given: drop one")
        if rank["data"] > rank["task"]:
            return replace(config, task=None)
        lower = {n: None for n in ("data", "data_heldout", "data_ood") if rank[n] < rank["task"]}
        config = replace(config, **lower)
    if config.data is None and (extra := config.data_heldout or config.data_ood):
        raise InputError(
            f"data_heldout or data_ood '{extra}' is given to evaluate on, but the run trains on a task: give --data "
            "FILE or drop it"
        )
    return config
