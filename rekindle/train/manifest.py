"""The manifest of a checkpoint: every file with its size and checksum, so that a damaged one is known before use."""

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


def seal(folder: Path, step: int) -> None:
    """Write the manifest of all that lies in `folder` now. step: optimiser steps that the checkpoint stands behind."""
    files = {str(path.relative_to(folder)): entry(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    told = {"format": FORMAT, "step": step, "versions": versions(), "files": files}
    (folder / NAME).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


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
    if not isinstance(told, dict) or not isinstance(told.get("files"), dict) or not isinstance(told.get("step"), int):
        raise InputError(f"its {NAME} is no manifest")
    if told.get("format") != FORMAT:
        raise InputError(f"its {NAME} has format {told.get('format')}, and this version reads {FORMAT}")
    return told


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
