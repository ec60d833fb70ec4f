"""Programs of `--grade code` in a container each: --set grading.sandbox=examples/06_programs_in_docker.py:run

A container takes some 0.5 s to start: raise grading.deadline, or keep fewer tests a row.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import subprocess

from rekindle.tokens.grading.elsewhere import read, whole
from rekindle.tokens.grading.sandbox import Ran

IMAGE = "python:3.12-slim"
START = "import sys; size = int(sys.stdin.readline()); exec(sys.stdin.read(size))"
"""The program comes first on standard input, then the test's input."""
INSIDE = (
    '{ command -v timeout && command -v python3; } >&2 || exit 127; "$@"; code=$?; '
    "case $code in 125|126|127) code=1;; esac; exit $code"
)
"""125, 126 and 127 are docker's own: a program that ends with one of them fails, and does not choose to go ungraded."""


def command(name: str, seconds: float) -> list[str]:
    """The container: no network, nothing of the machine's files, no rights, little memory, few processes."""
    return [
        *("docker", "run", "--rm", "--interactive", "--name", name, "--pull", "never"),
        *("--network", "none", "--ipc", "none", "--read-only", "--workdir", "/program"),
        *("--tmpfs", "/program:rw,nosuid,nodev,size=16m,mode=1777", "--user", "65534:65534"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "512m", "--memory-swap", "512m"),
        *("--pids-limit", "32", "--cpus", "1", "--ulimit", "core=0"),
        *(IMAGE, "sh", "-c", INSIDE, "sh"),
        *("timeout", "--signal=KILL", str(math.ceil(seconds)), "python3", "-I", "-S", "-c", START),
    ]


def run(source: str, call: str | None, stdin: str, seconds: float) -> Ran:
    """One program in a container of its own, which is killed after `seconds`."""
    nonce = secrets.token_hex(16)
    name, program = f"program-{nonce}", whole(source, call, nonce)
    given = f"{len(program)}\n{program}{stdin}"
    try:
        ran = subprocess.run(
            command(name, seconds), input=given.encode("utf-8", "replace"), capture_output=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError):
            subprocess.run(["docker", "kill", name], capture_output=True)
        return Ran("timeout")
    if ran.returncode in (125, 126, 127):  # docker itself failed: that is no fault of the program
        raise RuntimeError(f"docker: {ran.stderr.decode('utf-8', 'replace')[:300]}")
    status = {0: "ok", 137: "timeout"}.get(ran.returncode, "failed")
    return read(status, ran.stdout.decode("utf-8", "replace"), call, nonce)
