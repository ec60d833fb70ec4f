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
from rekindle.train.durable import make

NAME, CONFIG = ".lock", "run.toml"
PATIENCE = 3.0
"""Seconds that a process which is just ending has to let go."""
_ENTERED: dict[str, object] = {}
"""Real path of every folder that a thread of this process holds, or is about to -> a mark of that thread's own."""
_HELD: dict[str, int] = {}
"""Real path -> descriptor of its lock, held."""


def _let_go() -> None:
    """In a forked child: the lock is the parent's, and is free once that is gone, whatever it left behind."""
    for handle in _HELD.values():
        os.close(handle)
    _HELD.clear()
    _ENTERED.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(root: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the run folder `root`, which is made where it is not there; InputError where it is held already, be it by
    this process.

    note: is told where the file system knows no locks. Of a folder that did not become a run's, nothing is left here.
    """
    with _alone(root) as real:
        _HELD[real] = _held(root, note)
        try:
            yield
        finally:
            if real in _HELD:  # not so in a forked child: the folder is the parent's
                _leave(root)
                _give_back(_HELD.pop(real))


def _leave(root: Path) -> None:
    """Take the lock's file away, and the folder, where that did not become a run's."""
    with suppress(OSError):
        if not (root / CONFIG).exists():
            (root / NAME).unlink()
            root.rmdir()  # where nothing else is in it


def _give_back(handle: int) -> None:
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_UN)  # closing alone would leave it with a child forked at this instant
    os.close(handle)


@contextmanager
def _alone(root: Path) -> Iterator[str]:
    """The real path of `root`, which no other thread gets meanwhile, also where the system's locks are a process's."""
    real, mine = os.path.realpath(root), object()
    if _ENTERED.setdefault(real, mine) is not mine:
        raise InputError(f"the folder {root} is in use by this process: wait until it has ended, or give another --out")
    try:
        yield real
    finally:
        _ENTERED.pop(real, None)


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
        make(root)
        return os.open(root / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InputError(f"cannot write into {root} ({error.strerror}): give an --out that you can write to") from error


def _take(handle: int, root: Path, note: Callable[[str], None]) -> None:
    last = time.monotonic() + PATIENCE
    while True:
        try:
            # Of the open file: a lock of the process would be lost where any of its threads reads the file.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
    with suppress(OSError):  # a full disk takes no hint, and the run says what else does not fit
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)


def _holder(handle: int) -> str:
    """Who holds the lock, as it wrote; the file is a hint for people, the lock is the system's."""
    try:
        told = json.loads(os.pread(handle, 4096, 0))
        return f"process {told['pid']} on {told['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
