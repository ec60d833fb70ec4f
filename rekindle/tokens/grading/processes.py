"""Processes of grading: what they may use, how they end with their parent, and how a whole tree of them is ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36
_ROUNDS = 100
"""Looks at a tree before it is taken for gone: a fork bomb needs several, for it grows between two of them."""


def limit(limits: Mapping[int, int]) -> None:
    """Set rlimits (`resource.RLIMIT_*` -> value) of this process for good, none above the limit that holds already."""
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        low = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (low, low))


def dies_with_parent(parent: int) -> None:
    """This process ends when the thread that started it does, even by SIGKILL. Linux; elsewhere nothing happens.

    parent: its process id; where that has gone already, this process exits at once.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if sys.platform == "linux" and os.getppid() != parent:
        os._exit(1)


def adopts_orphans() -> None:
    """Descendants whose parent dies become children of this process, so that none can leave its tree. Linux only."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hides_memory() -> None:
    """No other process of the user may read this one's memory: it holds what programs are tested against. Linux."""
    _prctl(_PR_SET_DUMPABLE, 0)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """The living processes below `pid`, by /proc; zombies are not among them. Empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        found = _parent(int(name)) if name.isdigit() else None
        if found is not None:
            children.setdefault(found, []).append(int(name))
    out, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        out += below
        todo += below
    return [p for p in out if _state(p) not in (None, "Z", "X")]


def end_below(pid: int) -> int:
    """Kill every process below `pid` and return how many there were. All are stopped before any is killed."""
    seen: set[int] = set()
    for _ in range(_ROUNDS):
        new = [p for p in descendants(pid) if p not in seen]
        if not new:
            break
        for p in new:
            send(p, signal.SIGSTOP)
        seen.update(new)
    for _ in range(_ROUNDS):
        living = descendants(pid)
        if not living:
            break
        for p in living:
            send(p, signal.SIGKILL)
        time.sleep(0.001)
    return len(seen)


def send(pid: int, what: int) -> None:
    """A signal to a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, what)


def send_group(pid: int, what: int) -> None:
    """A signal to the process group that `pid` leads, which may be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, what)


def reap() -> None:
    """Collect the ended children of this process that no `Popen` waits for."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def held(pid: int) -> int:
    """Bytes of memory that a process holds, shared pages included; 0 where it is gone."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


def threads(pid: int) -> int:
    """Threads of a process; 0 where it is gone."""
    fields = _stat(pid)
    return int(fields[17]) if fields else 0


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; a name may hold spaces and brackets."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None


def _parent(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def _state(pid: int) -> str | None:
    fields = _stat(pid)
    return fields[0] if fields else None
