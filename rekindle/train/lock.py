"""A run folder belongs to one process at a time; the system frees it when that process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rekindle.errors import InputError

NAME, CONFIG = ".lock", "run.toml"
PATIENCE = 3.0
"""Seconds that a process which is just ending has to let go."""


@contextmanager
def locked(root: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the run folder `root`, which is made where it is not there; InputError where another process holds it.

    note: is told where the file system knows no locks. Of a folder that did not become a run's, nothing is left here.
    """
    handle = _held(root, note)
    try:
        yield
    finally:
        with suppress(OSError):
            if not (root / CONFIG).exists():
                (root / NAME).unlink()
                root.rmdir()  # where nothing else is in it
        os.close(handle)


def _held(root: Path, note: Callable[[str], None]) -> int:
    """The lock's file, held; again where who held it before took it away meanwhile."""
    while True:
        handle = _opened(root)
        try:
            _take(handle, root, note)
            if os.path.samestat(os.fstat(handle), os.stat(root / NAME)):
                return handle
        except FileNotFoundError:
            pass
        except InputError:
            os.close(handle)
            raise
        os.close(handle)


def _opened(root: Path) -> int:
    try:
        root.mkdir(parents=True, exist_ok=True)
        return os.open(root / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InputError(f"cannot write into {root} ({error.strerror}): give an --out that you can write to") from error


def _take(handle: int, root: Path, note: Callable[[str], None]) -> None:
    last = time.monotonic() + PATIENCE
    while True:
        try:
            # Of the process, not of the open file: children that it forked hold nothing once it is gone.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                note(f"{root} cannot be locked ({error.strerror}): see to it that no other process uses it")
                return
            if time.monotonic() > last:
                raise InputError(
                    f"the folder {root} is in use by {_holder(handle)}: wait until it has ended, or give another --out"
                ) from None
            time.sleep(0.05)
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)


def _holder(handle: int) -> str:
    """Who holds the lock, as it wrote; the file is a hint for people, the lock is the system's."""
    try:
        told = json.loads(os.pread(handle, 4096, 0))
        return f"process {told['pid']} on {told['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
