"""What programs are cut off from on this machine: measured by one that tries, with the remedy for what is missing.

Runs in a worker. docs/security.md says what each barrier is worth.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from rekindle.tokens.grading.asserts import decoded
from rekindle.tokens.grading.sandbox import MEMORY, NEEDED, run

SECONDS = 30.0
"""For a probe, on a machine however busy."""


@dataclass(frozen=True)
class Barrier:
    """What keeps a program away. name: of what, in a sentence; remedy: where it is missing."""

    name: str
    remedy: str


_NAMESPACES = "allow unshare (user namespaces, or a container with SYS_ADMIN)"
BARRIERS: Mapping[str, Barrier] = MappingProxyType(
    {
        "files": Barrier("the files of the user", "allow mounts in namespaces (Linux 5.12), or Landlock (Linux 6.2)"),
        "net": Barrier("the network", _NAMESPACES),
        "pid": Barrier("other processes", _NAMESPACES),
        "user": Barrier("the rights of the user", _NAMESPACES),
        "calls": Barrier("system calls that no program needs", "use x86-64 or AArch64, and a kernel with seccomp"),
        "limits": Barrier("more memory and time than a program is given", _NAMESPACES),
    }
)
"""Key of `isolation` -> the barrier."""
OTHERWISE = "run programs elsewhere (grading.sandbox), or choose another grading.by"
PROBE = """
import ctypes, os, resource, socket
libc = ctypes.CDLL(None, use_errno=True)
def fails(tried):
    try:
        tried()
    except OSError:
        return True
    return False
def probe(path, port, pid, memory):
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    return {
        "files": fails(lambda: open(path).close()),
        "net": fails(lambda: socket.create_connection(("127.0.0.1", port), 2).close()),
        "pid": fails(lambda: os.kill(pid, 0)) and os.getpid() == 1,
        "user": libc.prctl(39, 0, 0, 0, 0) == 1 and libc.capget(header, sets) == 0 and not any(sets),
        "calls": libc.prctl(21, 0, 0, 0, 0) == 2 and libc.unshare(0x10000000) == -1,
        "limits": 0 < resource.getrlimit(resource.RLIMIT_AS)[1] <= memory
        and resource.getrlimit(resource.RLIMIT_CPU)[1] > 0,
    }
"""
"""A program that tries what each barrier is against: to open a file, reach a port, signal a process, ..."""


@lru_cache(maxsize=1)
def isolation() -> dict[str, bool]:
    """Key of BARRIERS -> whether it holds here. "landlock": whether files are cut off by it, so that names show."""
    said = run(None, None, "", SECONDS)
    built = said.value if said.answered and isinstance(said.value, dict) else {}
    if not built.get("pid"):
        return dict.fromkeys((*BARRIERS, "landlock"), False)
    seen = measured()
    held = {name: bool(seen.get(name)) and bool(built.get(name, True)) for name in BARRIERS}
    return {**held, "landlock": bool(built.get("landlock"))}


def measured() -> dict[str, bool]:
    """What the probe finds, and what it leaves: a listener that it reached is a network that is not cut off."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        os.chmod(folder, 0o755)
        path = os.path.join(folder, "canary")
        with open(path, "w", encoding="utf-8") as file:
            file.write("a file of the user")
        asked = (path, server.getsockname()[1], os.getpid(), MEMORY)
        ran = run(PROBE, f"probe{asked!r}", "", SECONDS, needed=("pid",))
        if not ran.answered:
            return {}
        seen = {str(name): bool(held) for name, held in decoded(ran.value).items()}
        server.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            server.accept()[0].close()
            seen["net"] = False
    return seen


def lacking(shut: Mapping[str, bool], unsafe: bool = False) -> list[str]:
    """The barriers of those that programs need which are missing. unsafe: of these, only other processes matter."""
    return [name for name in (("pid",) if unsafe else NEEDED) if not shut.get(name)]


def sentence(names: Sequence[str]) -> str:
    """What programs would not be cut off from, and what to do."""
    what = " and ".join(BARRIERS[name].name for name in names)
    remedies = "; ".join(dict.fromkeys(BARRIERS[name].remedy for name in names))
    # Without its own processes a program could end every process of the user, the run's too: no option allows that.
    waived = (
        "" if "pid" in names else ", or set grading.unsafe_sandbox=true (--unsafe-sandbox) to run them nevertheless"
    )
    return f"here a program of the model would not be cut off from {what}: {remedies}; or {OTHERWISE}{waived}"
