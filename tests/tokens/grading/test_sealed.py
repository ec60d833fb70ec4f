"""A program cannot undo what shuts it off: with no capability, no sockets, and nothing to write to but its folder."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rekindle.tokens.grading.asserts import decoded
from rekindle.tokens.grading.pool import Pool

HERE = Path(__file__)
TRIES = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def may(tried):
    try:
        return tried()
    except OSError as error:
        return error.errno
def write(path):
    with open(path, "a") as file:
        return file.write("escaped")
def connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
NEW_USER, NEW_FILES = 0x10000000, 0x20000
clear = (ctypes.c_uint64 * 4)(0, 1, 0, 0)
"""


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool(1, deadline=20.0)
    (shut,) = made.map("rekindle.tokens.grading.sandbox:isolation", [()])
    if not shut.value["files"]:
        pytest.skip("no namespaces here")
    yield made
    made.close()


def tried(pool: Pool, what: str) -> Any:
    source = f"{TRIES}\ndef f():\n    return {what}\n"
    (got,) = pool.map("tests.tokens.grading.targets:ran", [(source, "f()", "", 5.0)])
    assert got.status == "ok" and got.value["answered"], got
    return decoded(got.value["value"])


@pytest.mark.parametrize(
    "what",
    [
        'libc.syscall(442, -100, b"/", 0x8000, clear, 32)',
        'libc.syscall(442, -100, b"/dev", 0, clear, 32)',
        'libc.mount(None, b"/", None, 32 | 4096, None)',
        'libc.mount(b"x", os.getcwd().encode(), b"tmpfs", 0, None)',
        'libc.umount2(b"/proc", 2)',
        'libc.umount2(b"/tmp", 2)',
        "libc.umount2(os.getcwd().encode(), 2)",
        "libc.unshare(NEW_USER | NEW_FILES)",
        "libc.setns(0, 0)",
        'libc.sethostname(b"x", 1)',
    ],
)
def test_what_shuts_a_program_off_cannot_be_undone(pool: Pool, what: str) -> None:
    assert tried(pool, what) == -1


def test_it_holds_no_capability_and_cannot_get_one(pool: Pool) -> None:
    status = dict(line.split(":", 1) for line in tried(pool, "open('/proc/self/status').read()").splitlines())
    assert {
        name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")
    } == dict.fromkeys(("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"), 0)
    assert status["NoNewPrivs"].strip() == "1"


def test_it_writes_to_its_folder_alone(pool: Pool, tmp_path: Path) -> None:
    checkout = HERE.parents[3] / "escaped"
    paths = ["/tmp/escaped", "/dev/shm/escaped", "/var/tmp/escaped", "/run/escaped", "/escaped", "/dev/kmsg"]
    paths += [str(checkout), str(HERE), str(tmp_path / "escaped"), os.path.expanduser("~/escaped")]
    before = HERE.read_bytes()
    told = tried(pool, f"[may(lambda: write(p)) for p in {paths!r}]")
    assert all(code in (1, 2, 13, 30) for code in told), dict(zip(paths, told, strict=True))
    assert HERE.read_bytes() == before and not checkout.exists()
    assert tried(pool, "write('inside') and sorted(os.listdir('/dev'))") == [
        "full",
        "null",
        "random",
        "urandom",
        "zero",
    ]
    assert tried(pool, "[len(os.listdir(p)) for p in ('/tmp', '/run', '/var/tmp')]") == [1, 0, 0]


def test_it_reaches_no_socket_of_a_service(pool: Pool) -> None:
    path = f"/tmp/grading-test-{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(1)
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)  # the service lives
            assert tried(pool, f"[os.path.exists({path!r}), may(lambda: connect({path!r}))]")[0] is False
        finally:
            os.unlink(path)
    if platform.machine() in ("x86_64", "aarch64"):
        kinds = "[may(lambda: socket.socket(kind)) for kind in (1, 2, 10, 16, 17, 40)]"
        assert tried(pool, kinds) == [1] * 6, "of no family"
        assert tried(pool, "libc.syscall(425, 1, None)") == -1, "io_uring opens sockets too"


def test_what_programs_use_still_works(pool: Pool) -> None:
    assert tried(pool, "__import__('asyncio').run(__import__('asyncio').sleep(0, 5))") == 5
    assert tried(pool, "__import__('subprocess').run(['/bin/echo', 'a'], capture_output=True).stdout.decode()") == "a\n"
    thread = (
        "(lambda t: (t.start(), t.join(), t.is_alive())[2])(__import__('threading').Thread(target=len, args=('a',)))"
    )
    assert tried(pool, thread) is False and tried(pool, "len(os.urandom(4)) + len(os.listdir('/proc/self/fd')) > 4")


@pytest.mark.skipif(os.getuid() != 0, reason="the branch of the machine's root")
def test_root_without_user_namespaces_becomes_nobody(pool: Pool, tmp_path: Path) -> None:
    python = shutil.which("python3", path="/usr/bin")
    if python is None:
        pytest.skip("no interpreter that all users may read")
    marker = str(tmp_path / "root")
    (got,) = pool.map("tests.tokens.grading.targets:as_root_without_user_namespaces", [(marker, python)])
    assert got.status == "ok", got
    ran = got.value
    assert ran["answered"] and decoded(ran["value"]) == [65534, 65534, [], "0" * 16, 13, 1]
