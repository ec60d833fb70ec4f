"""What workers are told to call in tests. Imports nothing heavy: workers import this file."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rekindle.tokens.grading import barriers, equal_code, sandbox


def double(x: int) -> int:
    return 2 * x


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "awake"


def spin() -> None:
    while True:
        pass


def power() -> int:
    return len(str(9 ** (9**9)))


def leave(code: int) -> None:
    os._exit(code)


def suicide() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(text: str) -> None:
    raise KeyboardInterrupt(text)


def hoard(size: int) -> int:
    return len(bytearray(size))


def blob(size: int) -> str:
    return "x" * size


def strange() -> object:
    return object()


def loaded(names: list[str]) -> list[str]:
    return [name for name in names if name in sys.modules]


def who() -> int:
    return os.getpid()


def daemon(marker: str) -> None:
    """Starts a process that leaves session and group, and then hangs."""
    code = "import os, sys, time\nos.setsid()\nif os.fork() == 0:\n    time.sleep(300)\n"
    subprocess.Popen([sys.executable, "-c", code, marker])
    threading.Event().wait()


def echo(text: str) -> str:
    return text


def ran(source: str, call: str | None, stdin: str, seconds: float) -> dict:
    return asdict(sandbox.run(source, call, stdin, seconds))


def ran_under_a_slow_look(source: str, call: str | None) -> dict:
    """As on a machine so busy that a program ends while its processes are being counted."""
    before = sandbox.descendants
    try:
        sandbox.descendants = lambda pid: time.sleep(0.6) or before(pid)
        return asdict(sandbox.run(source, call, "", 10.0))
    finally:
        sandbox.descendants = before


READY: list[bool] = []


def slow_start() -> None:
    time.sleep(1.5)
    READY.append(True)


def started() -> bool:
    return READY == [True]


def passes_without_namespaces(tests: str, source: str, marker: str) -> dict:
    """As on a machine that gives none."""
    with _changed(marker, "namespaces.py", "_LIBC.unshare(", "(lambda flags: -1)("):
        told = barriers.isolation()
        ran = sandbox.run(source, "f(2)", "", 5.0)
        unsafe = sandbox.run(source, "f(2)", "", 5.0, needed=("pid",))
        return {"isolation": told, "ran": ran.answered or unsafe.answered, "why": _refused(tests, source, unsafe=True)}


def _refused(tests: str, source: str, unsafe: bool = False) -> str:
    try:
        return str(equal_code.passes(tests, source, 5.0, unsafe=unsafe))
    except RuntimeError as error:
        return str(error)


@contextlib.contextmanager
def _changed(marker: str, name: str, old: str, new: str, python: str = "") -> Iterator[None]:
    """The sandbox with another text in a file of its process, and another interpreter."""
    before = sandbox._CANDIDATE, sandbox._PYTHON
    there = Path(marker + ".candidate")
    shutil.copytree(before[0], there, ignore=shutil.ignore_patterns("__pycache__"))
    text = (there / name).read_text(encoding="utf-8")
    assert old in text
    (there / name).write_text(text.replace(old, new), encoding="utf-8")
    try:
        sandbox._CANDIDATE, sandbox._PYTHON = str(there), python or before[1]
        barriers.isolation.cache_clear()
        yield
    finally:
        sandbox._CANDIDATE, sandbox._PYTHON = before
        barriers.isolation.cache_clear()


WITHOUT = {
    "a root of its own": ("root.py", "    if _furnished(", "    if False and _furnished("),
    "room for a root": (
        "root.py",
        "    for name in _SYSTEM:\n        if os.path.islink",
        "    raise OSError(28, 'full')\n    for name in _SYSTEM:\n        if os.path.islink",
    ),
    "pivot_root": ("root.py", "number is not None", "number is None"),
    "a barrier of files": ("__main__.py", '"files": sealed or ruled', '"files": False'),
    "a root without holes": ("root.py", "_EXTRA = (", f"_EXTRA = ({tempfile.gettempdir()!r}, "),
}
"""A machine that lacks this -> (file, text, the text that makes it so)."""


def without(what: str, marker: str, sources: list, unsafe: bool = False) -> dict:
    """What programs [source, call] give on a machine that lacks something, and what is told of it."""
    needed = ("pid",) if unsafe else sandbox.NEEDED
    file, old, new = WITHOUT[what]
    with _changed(marker, file, old, new):
        told = barriers.isolation()
        ran = [asdict(sandbox.run(source, call, "", 5.0, needed)) for source, call in sources]
        refused = _refused('["assert f() == 4"]', "f = lambda: 4", unsafe)
        return {"isolation": told, "ran": ran, "passes": refused}


def as_root_without_user_namespaces(marker: str, python: str) -> dict:
    """As in a container that has SYS_ADMIN and no user namespaces."""
    source = (
        "import os\n"
        "def may(tried):\n    try:\n        return tried()\n    except OSError as error:\n        return error.errno\n"
        "def f():\n    caps = open('/proc/self/status').read().split('CapEff:')[1].split()[0]\n"
        "    return [os.getuid(), os.getgid(), os.getgroups(), caps, may(lambda: open('/etc/shadow').read()),"
        " open('inside', 'w').write('x')]\n"
    )
    every = 'tuple(name for name in NEW if name != "user")'
    old, new = f"for wanted in (tuple(NEW), {every})", f"for wanted in ({every},)"
    with _changed(marker, "namespaces.py", old, new, python):
        return asdict(sandbox.run(source, "f()", "", 5.0))
