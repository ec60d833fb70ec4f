"""Run programs that a model wrote, each in a process of its own: cut off, limited, and ended with all it started.

Runs in a worker. What a right program gives is known here only: the program's process gets an input or a call, and what
comes back is data, compared here. What is cut off and what is not: docs/grading.md.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekindle.tokens.grading.processes import descendants, dies_with_parent, end_below, held, reap, send_group, threads

MEMORY = 512 << 20
"""Bytes of address space of a process of a program."""
ALL_MEMORY = 2 * MEMORY
"""Bytes of memory that the processes of a program may hold together; where it is more, all are killed."""
OUTPUT = 64 << 10
"""Bytes that a program may write; one that writes more has failed."""
PROCESSES = 32
"""Processes and threads of a program; where there are more, all are killed."""
_FILE = 16 << 20
_LOOK = 0.05
_CANDIDATE = str(Path(__file__).with_name("candidate"))
_PYTHON = os.path.realpath(vars(sys).get("_base_executable") or sys.executable)
"""The interpreter itself, whatever environment it was started from: its packages are nothing to a program."""
NEEDED = ("pid", "files", "net")
"""The barriers without which no program is run."""


@dataclass(frozen=True)
class Ran:
    """How a program ended. output: of a script; value: of a call, as `candidate.encoded` writes it, None if none came.

    status: "ok" (exit code 0), "failed", "timeout", "output" (too much of it), "processes" (too many), "memory".
    """

    status: str
    output: str = ""
    value: Any = None
    answered: bool = False


def run(source: str | None, call: str | None, stdin: str, seconds: float, needed: Sequence[str] = NEEDED) -> Ran:
    """Run a program as a script with `stdin`, or load it and make `call`. Nothing of it is left afterwards.

    needed: barriers (`barriers.BARRIERS`); where one of them is not there, the program has failed without being run.
    source None: nothing is run, and the value is which barriers there are.
    """
    nonce = secrets.token_hex(16)
    job = {"source": source, "call": call, "nonce": nonce, "limits": _limits(seconds), "needed": list(needed)}
    with _place() as folder, contextlib.ExitStack() as stack:
        job_fd = _memory_file(stack, json.dumps(job))
        input_fd = _memory_file(stack, stdin)
        results, answer_fd = os.pipe()
        stack.callback(os.close, results)
        worker = os.getpid()
        process = subprocess.Popen(
            [_PYTHON, "-I", "-S", _CANDIDATE, str(job_fd), str(answer_fd), str(worker)],
            stdin=input_fd,
            stdout=subprocess.PIPE if call is None else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            pass_fds=(job_fd, answer_fd),
            start_new_session=True,
            # Safe here: a worker has one thread.
            preexec_fn=lambda: dies_with_parent(worker),
        )
        os.close(answer_fd)
        try:
            status, output, answer = _watch(process, results, time.monotonic() + seconds)
        finally:
            _end(process)
    found = _answer(answer, nonce)
    return Ran(status, output.decode("utf-8", "replace"), *(found or (None, False)))


@contextlib.contextmanager
def _place() -> Iterator[str]:
    """An empty folder that is gone afterwards. That a program's files cannot be removed does not undo its verdict."""
    made = tempfile.TemporaryDirectory(prefix="grading-", ignore_cleanup_errors=True)
    try:
        yield made.name
    finally:
        with contextlib.suppress(RecursionError):
            made.cleanup()
        if os.path.exists(made.name):  # folders in folders, deeper than Python follows
            subprocess.run(["rm", "-rf", "--", made.name], check=False, stderr=subprocess.DEVNULL)


def _limits(seconds: float) -> dict[int, int]:
    return {
        resource.RLIMIT_CPU: math.ceil(seconds) + 1,
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_FSIZE: _FILE,
        resource.RLIMIT_NPROC: PROCESSES,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }


def _memory_file(stack: contextlib.ExitStack, text: str) -> int:
    """A descriptor from which `text` can be read; on no disk."""
    fd = os.memfd_create("grading")
    stack.callback(os.close, fd)
    data = memoryview(text.encode("utf-8", "surrogatepass"))
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _watch(process: subprocess.Popen[bytes], results: int, end: float) -> tuple[str, bytes, bytes]:
    """Read what a program writes until it ends or goes too far: (status, output, answer)."""
    read: dict[int, bytes] = {results: b""}
    output = process.stdout.fileno() if process.stdout is not None else -1
    if output >= 0:
        read[output] = b""
    status = ""
    waiting = set(read)
    while not status:
        # Before the pipes are looked at: what a program wrote is there once it has ended, however late this process is.
        ended = process.poll() is not None
        ready = select.select(list(waiting), [], [], _LOOK)[0] if waiting else time.sleep(0.002) or []
        for fd in ready:
            part = os.read(fd, OUTPUT)
            read[fd] += part
            waiting -= set() if part else {fd}
        status = _gone_too_far(process, max(map(len, read.values())), end)
        if not status and ended and not ready:
            status = "failed" if process.returncode else "ok"
    return status, read.get(output, b""), read[results]


def _gone_too_far(process: subprocess.Popen[bytes], size: int, end: float) -> str:
    if size > OUTPUT:
        return "output"
    if time.monotonic() > end:
        return "timeout"
    below = descendants(os.getpid())
    if sum(map(threads, below)) > PROCESSES + 1:
        return "processes"
    return "memory" if sum(map(held, below)) > ALL_MEMORY else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program and all that it started: its session, and what left that, for orphans become the worker's."""
    send_group(process.pid, signal.SIGKILL)
    end_below(os.getpid())
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
    reap()


def _answer(data: bytes, nonce: str) -> tuple[Any, bool] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or len(found) != 2 or found[0] != nonce:
        return None
    return found[1], True
