"""What workers are told to call in tests. Imports nothing heavy: workers import this file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict

from rekindle.tokens.grading import equal_code, sandbox


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
    with open(sandbox._CANDIDATE, encoding="utf-8") as file:
        text = file.read()
    assert "_LIBC.unshare(" in text
    _stand_in(marker, text.replace("_LIBC.unshare(", "(lambda flags: -1)("))
    sandbox.isolation.cache_clear()
    told = sandbox.isolation()
    ran = sandbox.run(source, "f(2)", "", 5.0)
    try:
        equal_code.passes(tests, source, 5.0)
    except RuntimeError as error:
        return {"isolation": told, "ran": ran.answered, "why": str(error)}
    return {}


def _stand_in(marker: str, text: str) -> None:
    sandbox._CANDIDATE = marker + ".candidate.py"
    with open(sandbox._CANDIDATE, "w", encoding="utf-8") as file:
        file.write(text)


def as_root_without_user_namespaces(marker: str, python: str) -> dict:
    """As in a container that has SYS_ADMIN and no user namespaces."""
    before, interpreter = sandbox._CANDIDATE, sys.executable
    with open(before, encoding="utf-8") as file:
        text = file.read()
    assert "for wanted in (tuple(_NEW), " in text
    text = text.replace("for wanted in (tuple(_NEW), ", "for wanted in (").replace('"user")):', '"user"),):')
    _stand_in(marker, text)
    source = (
        "import os\n"
        "def may(tried):\n    try:\n        return tried()\n    except OSError as error:\n        return error.errno\n"
        "def f():\n    caps = open('/proc/self/status').read().split('CapEff:')[1].split()[0]\n"
        "    return [os.getuid(), os.getgid(), os.getgroups(), caps, may(lambda: open('/etc/shadow').read()),"
        " open('inside', 'w').write('x')]\n"
    )
    try:
        sys.executable = python
        return asdict(sandbox.run(source, "f()", "", 5.0))
    finally:
        sandbox._CANDIDATE, sys.executable = before, interpreter
