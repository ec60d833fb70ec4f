"""The process of a program that a model wrote. Run as a file by `sandbox.py`, with the standard library only.

It shuts itself off as far as the system lets it, sets its limits and runs the program: as a script with the test's
input, or to make one call whose value it writes to a pipe. It holds nothing that tells right from wrong.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import resource
import signal
import struct
import sys
from typing import Any

_NEW = {"user": 0x10000000, "mount": 0x20000, "uts": 0x4000000, "ipc": 0x8000000, "net": 0x40000000, "pid": 0x20000000}
_PRIVATE, _BIND = 1 << 18 | 0x4000, 0x1000
_PDEATHSIG, _DUMPABLE, _SECCOMP, _CAPBSET_DROP, _NO_NEW_PRIVS = 1, 4, 22, 24, 38
_MOUNT_SETATTR, _ALL_BELOW, _READ_ONLY = 442, 0x8000, 1
_NOBODY = 65534
_HIDDEN = ("/tmp", "/var/tmp", "/run", "/var/run", "/dev")
"""Where services put their sockets and devices: an empty place each."""
_DEVICES = ("null", "zero", "full", "random", "urandom")
# Of linux/audit.h, and the numbers of: socket, ptrace, mount, umount2, unshare, setns, add_key, request_key, keyctl,
# bpf, perf_event_open, userfaultfd; of memory that no limit of a process counts: shmget, memfd_create, msgget, semget;
# and clone.
_MACHINES = {
    "x86_64": (0xC000003E, (41, 101, 165, 166, 272, 308, 248, 249, 250, 321, 298, 323, 29, 319, 68, 64), 56),
    "aarch64": (0xC00000B7, (198, 117, 40, 39, 97, 268, 217, 218, 219, 280, 241, 282, 194, 279, 186, 190), 220),
}
# The same on all machines: io_uring_setup (it opens sockets too), move_mount, fsopen, fsmount, fspick, mount_setattr,
# memfd_secret.
_NEWER, _CLONE3, _X32 = (425, 429, 430, 432, 433, 442, 447), 435, 0x40000000
_EPERM, _ENOSYS = 1, 38
_LIBC = ctypes.CDLL(None, use_errno=True)


def main(job_fd: int, result_fd: int, parent: int) -> None:
    """Take the job from `job_fd`, become it."""
    with os.fdopen(job_fd, encoding="utf-8", errors="surrogatepass") as file:
        job = json.load(file)
    shut = shut_off(parent)
    folder = os.getcwd()
    own_user = shut["user"]
    shut["files"] = shut["pid"] and sealed(folder, owner=os.getuid() if own_user else _NOBODY)
    os.chdir(folder)
    if shut["pid"]:
        give_up(nobody=not own_user)
    for kind, value in job["limits"].items():
        resource.setrlimit(int(kind), (value, value))
    if shut["pid"]:
        shut["calls"] = filtered()
    if job["source"] is None:
        write(result_fd, job["nonce"], shut)
        return
    if not shut["pid"]:  # it could end every process of the user
        os._exit(1)
    sys.dont_write_bytecode = True
    script = job["call"] is None
    module = load("__main__" if script else "solution", job["source"], {})
    if not script:
        names = methods(vars(module).get("Solution")) | vars(module)
        value = vars(load("call", f"result = {job['call']}\n", names))["result"]
        write(result_fd, job["nonce"], encoded(value, 0))


def write(fd: int, nonce: str, value: Any) -> None:
    """The one message of this process."""
    with os.fdopen(fd, "wb") as file:
        file.write(json.dumps([nonce, value]).encode())


def load(name: str, source: str, names: dict[str, Any]) -> Any:
    """Run a source as the module `name`, which begins with `names`."""
    path = os.path.join(os.getcwd(), f"{name.strip('_')}.py")
    with open(path, "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module).update({key: value for key, value in names.items() if not key.startswith("__")})
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def methods(kind: Any) -> dict[str, Any]:
    """The public methods of a class `Solution`, which data sets call by their names alone."""
    one = kind() if isinstance(kind, type) else None
    return {} if one is None else {name: getattr(one, name) for name in dir(one) if not name.startswith("_")}


def encoded(value: Any, depth: int) -> Any:
    """Plain data of exact types as JSON that keeps the types; anything else by the name of its type alone."""
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return {"int": hex(value)}
    if kind is float:
        return {"float": float.hex(value)}
    if kind in (list, tuple, set, frozenset) and depth < 100:
        return {kind.__name__: [encoded(item, depth + 1) for item in value]}
    if kind is dict and depth < 100:
        return {"dict": [[encoded(k, depth + 1), encoded(v, depth + 1)] for k, v in value.items()]}
    return {"other": kind.__name__}


def shut_off(parent: int) -> dict[str, bool]:
    """Namespaces of its own, where the system gives them: no network, no view of other processes.

    The process that was started stays behind as a watcher; its end is the end of all in the namespace.
    """
    own = dict.fromkeys(_NEW, False)
    for wanted in (tuple(_NEW), tuple(name for name in _NEW if name != "user")):
        if _unshare(wanted):
            own |= dict.fromkeys(wanted, True)
            break
    _LIBC.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    if own["pid"]:
        _follow()
    return own


def _unshare(wanted: tuple[str, ...]) -> bool:
    user, group = os.getuid(), os.getgid()
    if _LIBC.unshare(sum(_NEW[name] for name in wanted)) != 0:
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


def sealed(folder: str, owner: int) -> bool:
    """Make all files read-only but an empty `folder` of 16 MiB of `owner`, empty the places of sockets and devices,
    and make /proc that of the own namespace. True if done."""
    if _LIBC.mount(b"none", b"/", None, _PRIVATE, None) != 0:
        return False
    hidden = [path for path in (*_HIDDEN, os.path.dirname(folder)) if os.path.isdir(path) and not os.path.islink(path)]
    kept = {path: os.open(path, os.O_PATH) for path in _needed([path for path in hidden if path != "/"])}
    done = all([_mount("tmpfs", path, "tmpfs", 0, "size=1m,mode=755") for path in dict.fromkeys(hidden) if path != "/"])
    done = all([_put_back(path, fd) for path, fd in kept.items()]) and done
    os.makedirs(folder, exist_ok=True)
    done = (_mount("proc", "/proc", "proc", 0, None) or _mount("tmpfs", "/proc", "tmpfs", 0, "size=1m")) and done
    # struct mount_attr: attributes to set, to clear, propagation, user namespace.
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY, 0, 0, 0)
    done = _LIBC.syscall(_MOUNT_SETATTR, -100, b"/", _ALL_BELOW, attributes, ctypes.sizeof(attributes)) == 0 and done
    return _mount("tmpfs", folder, "tmpfs", 0, f"size=16m,mode=700,uid={owner},gid={owner}") and done


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None) -> bool:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    return _LIBC.mount(texts[0], texts[1], texts[2], flags, texts[3]) == 0


def _needed(hidden: list[str]) -> list[str]:
    """What must stay of the hidden places: harmless devices, and the interpreter where it lies there."""
    inside = [p for p in {sys.base_prefix, sys.base_exec_prefix} if any(f"{p}/".startswith(f"{h}/") for h in hidden)]
    devices = [f"/dev/{name}" for name in _DEVICES]
    return [path for path in (*inside, *devices) if os.path.exists(path)]


def _put_back(path: str, fd: int) -> bool:
    if os.path.isdir(f"/proc/self/fd/{fd}"):
        os.makedirs(path, exist_ok=True)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))
    done = _mount(f"/proc/self/fd/{fd}", path, None, _BIND, None)
    os.close(fd)
    return done


def give_up(nobody: bool) -> None:
    """Drop all capabilities, which could undo `sealed`, and where `nobody` the user too. Ends the process on failure.

    nobody: without a user namespace of its own the process is the machine's root.
    """
    for capability in range(64):
        _LIBC.prctl(_CAPBSET_DROP, capability, 0, 0, 0)
    if nobody:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
        # A change of the user clears both.
        _LIBC.prctl(_DUMPABLE, 1, 0, 0, 0)
        _LIBC.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if _LIBC.capset(header, (ctypes.c_uint32 * 6)()) != 0 or _LIBC.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        os._exit(1)
    if not os.access(os.path.dirname(os.__file__), os.R_OK | os.X_OK) or not os.access(".", os.W_OK):
        os._exit(1)


def filtered() -> bool:
    """Refuse system calls that a program has no use for: sockets of any kind, mounts, namespaces, tracing, keys,
    memory outside of its own.

    False on a machine whose call numbers are not known here; a kernel that refuses the filter ends the process.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    code = bpf(*machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    if _LIBC.prctl(_SECCOMP, 2, program, 0, 0) != 0:
        os._exit(1)
    return True


def bpf(arch: int, refused: tuple[int, ...], clone: int) -> bytes:
    """The filter: 8 bytes an instruction (code, jump if true, jump if false, value). Reads struct seccomp_data."""
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    deny, allow = 0x50000 | _EPERM, 0x7FFF0000
    out = [(load, 0, 0, 4), (equal, 1, 0, arch), (give, 0, 0, deny), (load, 0, 0, 0)]
    out += [(at_least, 0, 1, _X32), (give, 0, 0, deny)]
    out += [(equal, 0, 1, _CLONE3), (give, 0, 0, 0x50000 | _ENOSYS)]  # libc then uses clone, whose flags can be read
    for number in (*refused, *_NEWER):
        out += [(equal, 0, 1, number), (give, 0, 0, deny)]
    out += [(equal, 0, 3, clone), (load, 0, 0, 16), (any_bit, 0, 1, _NEW["user"]), (give, 0, 0, deny)]
    return b"".join(struct.pack("HBBI", *line) for line in [*out, (give, 0, 0, allow)])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
