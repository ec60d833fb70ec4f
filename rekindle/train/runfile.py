"""run.toml: a resolved run as text. Passed back with `--config` it gives the same run, whatever the defaults become.

The top holds every option of the run and every option of the record that is not the method's own; the table `run` only
records (versions, origins, the resolved record and its hash) and is no input.
"""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from rekindle.errors import InputError
from rekindle.tokens.reading import text_of
from rekindle.train.config import RECORDED, Resolved

PACKAGES = ("rekindle", "torch", "transformers")


@dataclass(frozen=True)
class Saved:
    """What run.toml says of the run that wrote it. `options`: every option of run and record, by dotted path.

    inputs: file -> sha256 of the user's own files that the run read.
    """

    method: str
    options: Mapping[str, Any]
    record_hash: str
    versions: Mapping[str, str]
    inputs: Mapping[str, str]


def to_toml(resolved: Resolved, inputs: Mapping[str, str] | None = None) -> str:
    """The text of run.toml. TOML has no null: as an input, None is the word "none"; in the record, a list of names."""
    own = resolved.config.flat()
    said = {path: value for path, value in resolved.options.items() if path in own or resolved.origin[path] != "method"}
    recorded = {
        "record_hash": resolved.record_hash,
        "versions": versions(),
        "inputs": dict(inputs or {}),
        "origin": {path: origin for path, origin in resolved.origin.items() if origin not in ("default", "method")},
        "options": {path: _written(value) for path, value in resolved.options.items() if value is not None},
        "unset": [path for path, value in resolved.options.items() if value is None],
    }
    # A part that was exchanged by name and then given options: its name cannot be a table too, so both go first, flat.
    chosen = [path for path in said if path not in own and _inside(path, said)]
    flat = {path: _written(said[path]) for path in said if any(f"{path}.".startswith(f"{part}.") for part in chosen)}
    rest = {path: value for path, value in said.items() if path not in flat}
    return tomli_w.dumps({**flat, **_nested(rest), RECORDED: recorded})


def from_toml(text: str, where: str = "run.toml") -> Saved:
    """The run that `text` records; InputError where it is no TOML or records no run."""
    tree = parse(text, where)
    recorded = tree.get(RECORDED)
    if not isinstance(recorded, dict) or not recorded.keys() >= {"record_hash", "versions", "options", "unset"}:
        raise InputError(
            f"{where} records no run (no table [{RECORDED}]): it was not written by a run of rekindle; give one "
            "that was"
        )
    given = {"inputs": {}, **recorded}
    kinds: dict[str, type] = {"record_hash": str, "versions": dict, "options": dict, "unset": list, "inputs": dict}
    wrong = next((name for name, kind in kinds.items() if not isinstance(given[name], kind)), None)
    if wrong is not None or not all(isinstance(name, str) for name in given["unset"]):
        raise InputError(f"{where}: '{RECORDED}.{wrong or 'unset'}' was edited or damaged: restore the file")
    options: dict[str, Any] = {path: tuple(v) if isinstance(v, list) else v for path, v in given["options"].items()}
    options |= dict.fromkeys(given["unset"])
    if not isinstance(options.get("method"), str):
        raise InputError(f"{where}: '{RECORDED}.options.method' names no method: restore the file")
    return Saved(options["method"], options, given["record_hash"], given["versions"], given["inputs"])


def parse(text: str, where: str) -> dict[str, Any]:
    """`text` as TOML; InputError naming `where` and the line."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where} is no valid TOML: {error}: fix the line") from error
    except (ValueError, RecursionError) as error:  # 4,300 digits, or brackets as deep as the stack
        reason = "a number has too many digits" if isinstance(error, ValueError) else "nested too deeply"
        raise InputError(f"{where} cannot be read as TOML ({reason}): give a shorter value") from None


def read(path: str | Path) -> dict[str, Any]:
    """The run.toml at `path`, parsed, as `resolve` takes it; InputError where there is none."""
    return parse(text_of(Path(path), "give a run.toml", f"the configuration '{path}'"), str(path))


def versions() -> dict[str, str]:
    """The versions of the packages that decide a run's numbers; "not installed" for one that runs from its source."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _written(value: Any) -> Any:
    if value is None:
        return "none"
    return list(value) if isinstance(value, tuple) else value


def _inside(path: str, flat: Mapping[str, Any]) -> bool:
    return any(other.startswith(path + ".") for other in flat)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted paths as tables; the name of a part (`collect` = "Answers") is left out where its fields follow."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        if _inside(path, flat):
            continue
        node = tree
        *tables, key = path.split(".")
        for table in tables:
            node = node.setdefault(table, {})
        node[key] = _written(value)
    return tree
