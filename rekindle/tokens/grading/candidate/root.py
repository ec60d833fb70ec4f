"""A file system of its own: the standard library and what it loads, read-only, five devices, and an empty folder.

Built in a tmpfs from binds, and entered by pivot_root, so that nothing else of the machine has a name any more.
"""

from __future__ import annotations

import ctypes
import os
import sys

FOLDER = "/program"
"""Where the program runs: 16 MiB and 4,096 files."""
DEVICES = ("null", "zero", "full", "random", "urandom")
_PRIVATE, _BIND, _NOSUID, _NODEV = 1 << 18 | 0x4000, 0x1000 | 0x4000, 2, 4
_MOUNT_SETATTR, _ALL_BELOW, _READ_ONLY, _DETACH = 442, 0x8000, 1, 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYSTEM = ("/lib", "/lib32", "/lib64", "/libx32")
"""Folders of libraries, links into /usr on most systems; what lies in them or under /usr is of the distribution."""
_EXTRA = ("/etc/ld.so.cache", "/usr/share/zoneinfo")
_LIBC = ctypes.CDLL(None, use_errno=True)


def needed() -> list[str]:
    """The files and folders that the interpreter needs, none within another: its binary, the standard library, and
    the libraries that it has loaded, with their neighbours."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        mapped = {line.split(None, 5)[-1].rstrip("\n") for line in file if ".so" in line}
    found = [os.path.realpath(sys.executable), *sys.path, *_EXTRA, os.path.realpath("/lib64")]
    for library in mapped:
        found += _library(library)
    there = sorted({path for path in found if path.startswith("/") and path != "/" and os.path.exists(path)})
    return [path for path in there if not any(path.startswith(f"{other}/") for other in there)]


def _library(path: str) -> list[str]:
    """The folder of a library of the distribution; elsewhere, as in a home, only the libraries in it."""
    folder = os.path.dirname(path)
    if f"{folder}/".startswith(tuple(f"{place}{name}/" for name in _SYSTEM for place in ("", "/usr"))):
        return [folder]
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in names if ".so" in name]


def sealed(stage: str, places: list[str], owner: int) -> bool:
    """Make `stage` the root: `places`, /proc of the own namespace, the devices and FOLDER of `owner`. True if done.

    Where it cannot be done, everything is as before.
    """
    if not _mount("none", "/", None, _PRIVATE, None) or not _mount("tmpfs", stage, "tmpfs", _NOSUID, "mode=755"):
        return False
    try:
        if _furnished(stage, places) and _shut(stage, owner) and _entered(stage):
            return True
    except OSError:  # no room, a place that went away: another barrier may do
        pass
    os.chdir("/")
    _LIBC.umount2(os.fsencode(stage), _DETACH)
    return False


def _furnished(stage: str, places: list[str]) -> bool:
    for name in _SYSTEM:
        if os.path.islink(name):
            os.symlink(os.readlink(name).lstrip("/"), stage + name)
    devices = [f"/dev/{name}" for name in DEVICES if os.path.exists(f"/dev/{name}")]
    done = all([_shown(stage, path) for path in (*places, *devices)])
    for path in packages():
        if os.path.isdir(stage + path):  # of others, and of no use without `site`
            done = _mount("tmpfs", stage + path, "tmpfs", _NOSUID, "size=4k,mode=755") and done
    os.mkdir(f"{stage}/proc")
    _mount("proc", f"{stage}/proc", "proc", 0, None)  # in a container it may be refused: then there is none
    os.mkdir(stage + FOLDER)
    return done


def packages() -> list[str]:
    """Where installed packages would lie in the standard library's folders."""
    return [f"{path}/{name}" for path in sys.path for name in ("site-packages", "dist-packages")]


def _shown(stage: str, path: str) -> bool:
    os.makedirs(os.path.dirname(stage + path), exist_ok=True)
    if os.path.isdir(path):
        os.makedirs(stage + path, exist_ok=True)
    else:
        os.close(os.open(stage + path, os.O_CREAT | os.O_WRONLY, 0o644))
    return _mount(path, stage + path, None, _BIND, None)


def _shut(stage: str, owner: int) -> bool:
    # struct mount_attr: attributes to set, to clear, propagation, user namespace.
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY | _NOSUID, 0, 0, 0)
    size = ctypes.sizeof(attributes)
    if _LIBC.syscall(_MOUNT_SETATTR, -100, os.fsencode(stage), _ALL_BELOW, attributes, size) != 0:
        return False
    options = f"size=16m,nr_inodes=4096,mode=700,uid={owner},gid={owner}"
    return _mount("tmpfs", stage + FOLDER, "tmpfs", _NOSUID | _NODEV, options)


def _entered(stage: str) -> bool:
    """Whether `stage` is the root; by chroot where the machine's root cannot be exchanged, as in an initramfs: without
    a capability and without an open folder outside, there is no way back from it either."""
    os.chdir(stage)
    number = _PIVOT_ROOT.get(os.uname().machine)
    if number is not None and _LIBC.syscall(number, b".", b".") == 0:
        if _LIBC.umount2(b".", _DETACH) != 0:
            os._exit(1)
    elif _LIBC.chroot(b".") != 0:
        return False
    os.chdir("/")
    return True


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None) -> bool:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    return _LIBC.mount(texts[0], texts[1], texts[2], flags, texts[3]) == 0
