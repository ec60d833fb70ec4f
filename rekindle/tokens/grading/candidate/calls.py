"""A filter of system calls (seccomp), for x86-64 and AArch64: what a program has no use for is refused."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import NamedTuple

_SECCOMP, _EPERM, _ENOSYS = 22, 1, 38
_CLONE3, _X32, _NEW_USER = 435, 0x40000000, 0x10000000
_LIBC = ctypes.CDLL(None, use_errno=True)
# The same on all machines: pidfd_getfd, io_uring_setup (it opens sockets too), move_mount, fsopen, fsmount, fspick,
# mount_setattr, memfd_secret.
_NEWER = (438, 425, 429, 430, 432, 433, 442, 447)
# The same on all machines: fchmodat2, setxattrat, removexattrat.
_NEWER_ATTRIBUTES = (452, 463, 466)


class Machine(NamedTuple):
    """Numbers of system calls. arch: of linux/audit.h. refused: always. attributes: what changes a file's mode, owner,
    times and extended attributes without opening it. sendto: refused where it names an address."""

    arch: int
    clone: int
    sendto: int
    refused: tuple[int, ...]
    attributes: tuple[int, ...]


# _X86_64 and _AARCH64: socket, connect, bind, listen, sendmsg, sendmmsg (a pair of connected sockets is left); ptrace,
# process_vm_readv, process_vm_writev, kcmp; mount, umount2, pivot_root, chroot, unshare, setns; name_to_handle_at,
# open_by_handle_at, fanotify_init; add_key, request_key, keyctl; bpf, perf_event_open, userfaultfd; of memory that no
# limit of a process counts: shmget, memfd_create, msgget, semget; init_module, finit_module, delete_module,
# kexec_load, reboot, swapon, syslog, settimeofday, clock_settime.
_X86_64 = (
    *(41, 42, 49, 50, 46, 307, 101, 310, 311, 312, 165, 166, 155, 161, 272, 308, 303, 304, 300, 248, 249, 250),
    *(321, 298, 323, 29, 319, 68, 64, 175, 313, 176, 246, 169, 167, 103, 164, 227),
)
_AARCH64 = (
    *(198, 203, 200, 201, 211, 269, 117, 270, 271, 272, 40, 39, 41, 51, 97, 268, 264, 265, 262, 217, 218, 219),
    *(280, 241, 282, 194, 279, 186, 190, 105, 273, 106, 104, 142, 224, 116, 170, 112),
)
# attributes: chmod, fchmod, fchmodat, chown, fchown, lchown, fchownat, utime, utimes, futimesat, utimensat, setxattr,
# lsetxattr, fsetxattr, removexattr, lremovexattr, fremovexattr; those of them that AArch64 has.
_MACHINES = {
    "x86_64": Machine(
        *(0xC000003E, 56, 44),
        refused=_X86_64,
        attributes=(90, 91, 268, 92, 93, 94, 260, 132, 235, 261, 280, 188, 189, 190, 197, 198, 199),
    ),
    "aarch64": Machine(
        *(0xC00000B7, 220, 206),
        refused=_AARCH64,
        attributes=(52, 53, 54, 55, 88, 5, 6, 7, 14, 15, 16),
    ),
}


def known() -> bool:
    """Whether the numbers of this machine's calls are known here."""
    return os.uname().machine in _MACHINES


def filtered(attributes: bool) -> bool:
    """Set the filter; False on another machine. A kernel that refuses it ends the process. attributes: those too."""
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        return False
    code = bpf(machine, attributes)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    if _LIBC.prctl(_SECCOMP, 2, program, 0, 0) != 0:
        os._exit(1)
    return True


def bpf(machine: Machine, attributes: bool) -> bytes:
    """The filter: 8 bytes an instruction (code, jump if true, jump if false, value). Reads struct seccomp_data."""
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    deny, allow = (give, 0, 0, 0x50000 | _EPERM), (give, 0, 0, 0x7FFF0000)
    out = [(load, 0, 0, 4), (equal, 1, 0, machine.arch), deny, (load, 0, 0, 0)]
    out += [(at_least, 0, 1, _X32), deny]
    out += [(equal, 0, 1, _CLONE3), (give, 0, 0, 0x50000 | _ENOSYS)]  # libc then uses clone, whose flags can be read
    refused = (*machine.refused, *_NEWER, *((*machine.attributes, *_NEWER_ATTRIBUTES) if attributes else ()))
    for number in refused:
        out += [(equal, 0, 1, number), deny]
    out += [(equal, 0, 4, machine.clone), (load, 0, 0, 16), (any_bit, 0, 1, _NEW_USER), deny, allow]
    # Both halves of sendto's fifth argument, the address.
    out += [(equal, 0, 5, machine.sendto), (load, 0, 0, 48), (equal, 0, 2, 0), (load, 0, 0, 52), (equal, 1, 0, 0), deny]
    return b"".join(struct.pack("HBBI", *line) for line in [*out, allow])
