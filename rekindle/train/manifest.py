"""The manifest of a checkpoint: every file with its size and checksum, so that a damaged one is known before use.

It has a checksum of itself, too; older ones have none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekindle.errors import InputError
from rekindle.train.runfile import versions

NAME = "manifest.json"
FORMAT = 1
DIGEST = "sha256"
"""The manifest's own checksum: of what else is in it, as JSON with sorted names and without blanks."""
PARTS = {"format": int, "step": int, "versions": dict, "files": dict}
NEEDED = ("state/run.json", "state/optimizer.safetensors")
"""Every checkpoint has these, and weights beside `state/`."""


def seal(folder: Path, step: int) -> None:
    """Write the manifest of all that lies in `folder` now. step: optimiser steps that the checkpoint stands behind."""
    files = {str(path.relative_to(folder)): entry(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    told = {"format": FORMAT, "step": step, "versions": dict(versions()), "files": files}
    told[DIGEST] = _digest(told)
    (folder / NAME).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _digest(told: Mapping[str, Any]) -> str:
    body = {name: value for name, value in told.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def entry(file: Path) -> dict[str, Any]:
    """Size and sha256 of a file."""
    with file.open("rb") as handle:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def read(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`; InputError, one clause, where it is none."""
    try:
        told = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"it has no {NAME}: it was not finished, or written before 0.6") from None
    except (OSError, ValueError) as error:
        raise InputError(f"its {NAME} cannot be read ({error})") from error
    if not isinstance(told, dict):
        raise InputError(f"its {NAME} is no manifest")
    if told.get("format", FORMAT) != FORMAT:
        raise InputError(f"its {NAME} has format {told['format']}, and this version reads {FORMAT}")
    if told.get(DIGEST, _digest(told)) != _digest(told):
        raise InputError(f"its {NAME} has changed since it was written (other checksum)")
    strange = set(told) - {*PARTS, DIGEST}  # be it the name of the checksum, damaged
    if strange or any(not isinstance(told.get(name), kind) for name, kind in PARTS.items()):
        raise InputError(f"its {NAME} is no manifest")
    _refuse_incomplete(told["files"])
    return told


def _refuse_incomplete(files: Mapping[str, Any]) -> None:
    if lacking := [name for name in NEEDED if name not in files]:
        raise InputError(f"its {NAME} does not name {lacking[0]}")
    if not any("/" not in name and name.endswith(".safetensors") for name in files):
        raise InputError(f"its {NAME} names no weights")


def damage(folder: Path) -> str | None:
    """What is wrong with the checkpoint `folder`, in a clause that names the file; None where it is whole."""
    try:
        told: Mapping[str, Any] = read(folder)
        for name, wanted in told["files"].items():
            _refuse_other(folder, name, wanted)
    except InputError as error:
        return str(error)
    return None


def _refuse_other(folder: Path, name: str, wanted: Any) -> None:
    file = folder / name
    if not file.is_file():
        raise InputError(f"{name} is missing")
    try:
        found = entry(file)
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror})") from error
    if not isinstance(wanted, dict) or found["bytes"] != wanted.get("bytes"):
        raise InputError(f"{name} has {found['bytes']} bytes, not {wanted.get('bytes') if wanted else None}")
    if found["sha256"] != wanted.get("sha256"):
        raise InputError(f"{name} has changed since it was written (other checksum)")
