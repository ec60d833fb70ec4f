"""The user's own files, read whole or refused in one sentence: what stands there, and what to do."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from rekindle.errors import InputError


def bytes_of(path: Path, remedy: str, called: str | None = None, *, read: bool = True) -> bytes:
    """The bytes of a regular file; InputError for anything else, without waiting for a pipe.

    called: what the sentence calls the file (default: its path). remedy: its end, what to do. read: False looks only
    whether the file can be opened.
    """
    name = called or str(path)
    try:
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind):
            what = "a folder" if stat.S_ISDIR(kind) else "a pipe or a device"
            raise InputError(f"{name} cannot be read ({what}, not a file): {remedy}")
        with path.open("rb") as file:
            return file.read() if read else b""
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{name} cannot be read ({reason}): {remedy}") from None


def text_of(path: Path, remedy: str, called: str | None = None) -> str:
    """The text of a regular file in UTF-8; InputError as `bytes_of`, and for another encoding."""
    try:
        return bytes_of(path, remedy, called).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{called or path} cannot be read (byte {error.start + 1} is not valid UTF-8): {remedy}"
        ) from None


def object_of(path: Path, remedy: str, called: str | None = None) -> dict[str, Any]:
    """The JSON object in a file; InputError as `text_of`, and for what is none."""
    text, name = text_of(path, remedy, called), called or str(path)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{name}, {where}: invalid JSON ({error.msg}): {remedy}") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        raise InputError(f"{name}: invalid JSON ({reason}): {remedy}") from None
    if not isinstance(value, dict):
        raise InputError(f"{name}: no JSON object: {remedy}")
    return value
