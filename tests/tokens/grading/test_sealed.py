"""A program cannot undo what shuts it off: with no capability, no sockets, and nothing to write to but its folder."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rekindle.tokens.grading import sandbox
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
    (shut,) = made.map("rekindle.tokens.grading.barriers:isolation", [()])
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
    assert tried(pool, "[os.path.exists(p) for p in ('/tmp', '/run', '/var', '/home', '/bin', '/sys')]") == [False] * 6


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
    again = "[__import__('sys').executable, '-c', 'print(chr(97))']"
    run_python = f"__import__('subprocess').run({again}, capture_output=True).stdout.decode()"
    assert tried(pool, "__import__('asyncio').run(__import__('asyncio').sleep(0, 5))") == 5
    assert tried(pool, run_python) == "a\n"
    thread = (
        "(lambda t: (t.start(), t.join(), t.is_alive())[2])(__import__('threading').Thread(target=len, args=('a',)))"
    )
    assert tried(pool, thread) is False and tried(pool, "len(os.urandom(4)) + len(os.listdir('/proc/self/fd')) > 4")


@pytest.mark.skipif(os.getuid() != 0, reason="the branch of the machine's root")
@pytest.mark.parametrize("python", ["", "/usr/bin/python3"])
def test_root_without_user_namespaces_becomes_nobody(pool: Pool, tmp_path: Path, python: str) -> None:
    """Even where the interpreter lies in a folder that nobody else may enter."""
    if python and shutil.which(python) is None:
        pytest.skip("no interpreter of the system")
    marker = str(tmp_path / "root")
    (got,) = pool.map("tests.tokens.grading.targets:as_root_without_user_namespaces", [(marker, python)])
    assert got.status == "ok", got
    ran = got.value
    assert ran["answered"] and decoded(ran["value"]) == [65534, 65534, [], "0" * 16, 2, 1]


def without(pool: Pool, tmp_path: Path, what: str, sources: list[tuple[str, str | None]], unsafe: bool = False) -> Any:
    (got,) = pool.map("tests.tokens.grading.targets:without", [(what, str(tmp_path / "x"), sources, unsafe)])
    assert got.status == "ok", got
    return got.value


HAPPENS = [("f = lambda: 4", "f()"), ("print(__import__('os').getcwd(), open('inside', 'w').write('x'))", None)]


def test_where_the_root_cannot_be_exchanged_chroot_serves(pool: Pool, tmp_path: Path) -> None:
    told = without(pool, tmp_path, "pivot_root", [*HAPPENS, (READS, f"f({str(HERE)!r})")])
    assert told["isolation"]["files"] and not told["isolation"]["landlock"]
    assert told["ran"][0]["value"] == {"int": "0x4"} and told["ran"][1]["output"] == "/program 1\n"
    assert decoded(told["ran"][2]["value"]) == [2, 2, 2]


def test_where_there_is_no_room_for_a_root_another_barrier_serves(pool: Pool, tmp_path: Path) -> None:
    told = without(pool, tmp_path, "room for a root", HAPPENS)
    assert told["isolation"]["net"], "what tried lives on"
    if not told["isolation"]["landlock"]:
        pytest.skip("no Landlock here")
    assert told["isolation"]["files"] and told["ran"][0]["value"] == {"int": "0x4"}


DANGLING = """
import sys
sys.path.insert(0, sys.argv[1])
import landlock, root
sys.path.append(sys.argv[2])
class Kernel:
    def syscall(self, *words):
        return 0
landlock._LIBC = Kernel()
print(landlock._readable(-1, sys.argv[2]))
"""


def test_a_dangling_link_among_the_libraries_needs_no_leave(tmp_path: Path) -> None:
    (tmp_path / "site-packages").mkdir()  # so that the folder is allowed entry by entry
    (tmp_path / "module.py").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    line = [sys.executable, "-c", DANGLING, sandbox._CANDIDATE, str(tmp_path)]
    ran = subprocess.run(line, capture_output=True, text=True)
    assert ran.stdout == "True\n", ran.stderr


READS = """
import os, socket
def may(tried):
    try:
        return str(tried())
    except OSError as error:
        return error.errno
def f(path):
    return [may(lambda: open(path)), may(lambda: os.listdir(os.path.dirname(path))), may(lambda: os.chmod(path, 0))]
"""


def test_without_mounts_landlock_keeps_files_away(pool: Pool, tmp_path: Path) -> None:
    outside = tmp_path / "canary"
    outside.write_text("secret")
    sources = [*HAPPENS, (READS, f"f({str(outside)!r})"), ("f = lambda: len(__import__('ssl').__file__)", "f()")]
    sources.append((f"f = lambda: __import__('os').truncate({str(outside)!r}, 0)", "f()"))
    package = next(Path(os.__file__).parent.glob("*-packages/*/__init__.py"), HERE)
    sources.append((READS, f"f({str(package)!r})"))
    told = without(pool, tmp_path, "a root of its own", sources)
    if not told["isolation"]["landlock"]:
        pytest.skip("no Landlock here")
    assert all(told["isolation"].values()) and "'success': True" in told["passes"]
    assert told["ran"][0]["value"] == {"int": "0x4"} and told["ran"][1]["output"].endswith(" 1\n")
    assert decoded(told["ran"][2]["value"]) == [13, 13, 1] and outside.read_text() == "secret"
    assert told["ran"][3]["answered"], "the standard library is there"
    assert told["ran"][4]["status"] == "failed" and decoded(told["ran"][5]["value"])[0] == 13


@pytest.mark.parametrize("what", ["a barrier of files", "a root without holes"])
def test_programs_that_could_read_files_are_refused_unless_that_is_asked_for(
    pool: Pool, tmp_path: Path, what: str
) -> None:
    """The second says that files are cut off, and they are not: what counts is what the probe could read."""
    told = without(pool, tmp_path, what, HAPPENS)
    assert told["isolation"]["files"] is False and told["isolation"]["net"] is True
    assert "cut off from the files of the user: allow mounts" in told["passes"]
    assert "grading.unsafe_sandbox=true (--unsafe-sandbox)" in told["passes"]
    if what == "a barrier of files":
        assert not told["ran"][0]["answered"], "its process refuses too"
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    told = without(pool, tmp_path, what, HAPPENS, unsafe=True)
    assert told["ran"][0]["value"] == {"int": "0x4"} and "'success': True" in told["passes"]
