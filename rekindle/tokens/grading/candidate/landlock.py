"""Landlock (linux/landlock.h): which files may be opened, where no root of its own can be made.

Of ABI 3 (Linux 6.2) on: before it, files could be cut to nothing without being opened. Names stay visible.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence

import root

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_ASK_VERSION, _BENEATH, _LEAST = 1, 1, 3
_EXECUTE, _WRITE, _READ, _LIST = 1, 2, 4, 8
_RIGHTS = {3: 15, 4: 15}
"""ABI -> how many rights on files there are; later ones have one more, of ioctl on devices."""
_LIBC = ctypes.CDLL(None, use_errno=True)


def ruled(folder: str, places: Sequence[str], devices: Sequence[str]) -> bool:
    """Allow reading `places` (packages in them excepted), the `devices`, and everything in `folder`. True if done."""
    version = _LIBC.syscall(_CREATE, None, 0, _ASK_VERSION)
    if version < _LEAST:
        return False
    every = (1 << _RIGHTS.get(version, 16)) - 1
    rules = _LIBC.syscall(_CREATE, struct.pack("Q", every), 8, 0)
    if rules < 0:
        return False
    done = _allowed(rules, folder, every)
    for path in places:
        done = _readable(rules, path) and done
    for name in devices:
        done = (not os.path.exists(f"/dev/{name}") or _allowed(rules, f"/dev/{name}", _READ | _WRITE)) and done
    done = done and _LIBC.syscall(_RESTRICT, rules, 0) == 0
    os.close(rules)
    return done


def _readable(rules: int, path: str) -> bool:
    """Reading of a file or of all below a folder. A folder that holds packages is allowed entry by entry, and an entry
    that leads nowhere, a dangling link, needs no leave."""
    if not os.path.exists(path):
        return True
    if not os.path.isdir(path):
        return _allowed(rules, path, _READ | _EXECUTE)
    held = [place for place in root.packages() if f"{place}/".startswith(f"{path}/") and os.path.isdir(place)]
    if not held:
        return _allowed(rules, path, _READ | _LIST | _EXECUTE)
    if path in held:
        return True
    inside = [_readable(rules, f"{path}/{name}") for name in os.listdir(path)]
    return _allowed(rules, path, _LIST) and all(inside)


def _allowed(rules: int, path: str, rights: int) -> bool:
    place = os.open(path, os.O_PATH)
    # struct landlock_path_beneath_attr is packed.
    done = _LIBC.syscall(_ADD, rules, _BENEATH, struct.pack("=Qi", rights, place), 0) == 0
    os.close(place)
    return done
