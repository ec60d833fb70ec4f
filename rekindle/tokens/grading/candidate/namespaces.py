"""Namespaces of its own, and no rights in them: no network, no view of other processes, no capability."""

from __future__ import annotations

import ctypes
import os
import signal

NEW = {"user": 0x10000000, "mount": 0x20000, "uts": 0x4000000, "ipc": 0x8000000, "net": 0x40000000, "pid": 0x20000000}
"""Namespace -> its flag of unshare and clone."""
NOBODY = 65534
_PDEATHSIG, _DUMPABLE, _CAPBSET_DROP, _NO_NEW_PRIVS = 1, 4, 24, 38
_LIBC = ctypes.CDLL(None, use_errno=True)


def own(parent: int) -> dict[str, bool]:
    """Enter new namespaces, where the system gives them. Which they are is told: with or without a user's, or none.

    The process that was started stays behind as a watcher; its end is the end of all in the namespace.
    """
    got = dict.fromkeys(NEW, False)
    for wanted in (tuple(NEW), tuple(name for name in NEW if name != "user")):
        if _unshare(wanted):
            got |= dict.fromkeys(wanted, True)
            break
    _LIBC.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    if got["pid"]:
        _LIBC.sethostname(b"program", 7)
        _follow()
    return got


def _unshare(wanted: tuple[str, ...]) -> bool:
    user, group = os.getuid(), os.getgid()
    if _LIBC.unshare(sum(NEW[name] for name in wanted)) != 0:
        return False
    if "user" in wanted:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    return True


def _follow() -> None:
    """Fork into the new process namespace; the parent waits and ends as the child does."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    _LIBC.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def give_up(nobody: bool, folder: str | None) -> None:
    """Drop all capabilities, which could undo the rest, and where `nobody` the user too. Ends the process on failure.

    nobody: without a user namespace of its own the process is the machine's root. folder: what it must own then, None
    where it does already.
    """
    for capability in range(64):
        _LIBC.prctl(_CAPBSET_DROP, capability, 0, 0, 0)
    if nobody:
        if folder is not None:
            os.chown(folder, NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        # A change of the user clears both.
        _LIBC.prctl(_DUMPABLE, 1, 0, 0, 0)
        _LIBC.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if _LIBC.capset(header, (ctypes.c_uint32 * 6)()) != 0 or _LIBC.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        os._exit(1)
    if not os.access(os.path.dirname(os.__file__), os.R_OK | os.X_OK) or not os.access(".", os.W_OK):
        os._exit(1)
