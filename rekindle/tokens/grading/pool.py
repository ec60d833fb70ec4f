"""Worker processes that grade under a hard deadline: one that hangs or dies is replaced and costs its own call only.

No signal is used inside a process, so that calls may come from any thread. A worker starts in some 50 ms and imports
what its target imports, never torch unless the target does.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any, Literal

from rekindle.errors import EngineDead
from rekindle.tokens.grading.processes import end_below, send_group
from rekindle.tokens.grading.worker import RESULT_LIMIT, command, receive, transmit

MEMORY = 2 << 30
"""Bytes of address space of a worker: 2 GiB, so that one huge power cannot take the machine."""
START = 60.0
"""Seconds that a worker may take to start, and to import a target; neither counts towards a call's deadline."""


@dataclass(frozen=True)
class Outcome:
    """How a call ended. value: what the function returned (as JSON keeps it) where "ok", else the reason as a text."""

    value: Any
    status: Literal["ok", "timeout", "died", "raised"]


class Pool:
    """`workers` processes, started when first used and kept. deadline: seconds of a call once its worker is on it.

    memory: bytes of address space of each. prepare: "package.module:function" that each calls at its start, so that
    slow imports do not count towards a call.
    """

    def __init__(self, workers: int, deadline: float, memory: int = MEMORY, prepare: str = "") -> None:
        self.workers, self.deadline, self.memory, self.prepare = workers, deadline, memory, prepare
        self.counts: Counter[str] = Counter()
        """Calls so far by how they ended."""
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._slots: list[_Slot] = []
        self._closed = False
        self._at_exit = weakref.finalize(self, _close, os.getpid(), self._calls, self._threads, self._slots)

    def map(self, target: str, calls: Sequence[tuple[Any, ...]], deadline: float | None = None) -> list[Outcome]:
        """The outcomes of `target(*call)` for each call, in order. target: "package.module:function".

        Arguments are picklable; results are what JSON holds (a tuple comes back as a list), at most 1 MiB. deadline:
        of each of these calls, None as the pool's. EngineDead where no worker starts or the target is not importable.
        """
        seconds = self.deadline if deadline is None else deadline
        waiting = [_Call(bytes(ForkingPickler.dumps((target, call))), seconds, Future()) for call in calls]
        with self._lock:  # once it is closed, nobody would take what is put
            self._start()
            for one in waiting:
                self._calls.put(one)
        outcomes = [one.future.result() for one in waiting]
        with self._lock:
            self.counts.update(outcome.status for outcome in outcomes)
        return outcomes

    def close(self) -> None:
        """End the workers and all that they started; calls under way die. Safe to call twice, and at exit."""
        with self._lock:
            self._closed = True
        self._at_exit()

    def _start(self) -> None:
        if self._closed:
            raise EngineDead("the grading workers are closed: no response can be graded any more")
        for _ in range(self.workers - len(self._threads)):
            slot = _Slot(self.memory, self.prepare)
            thread = threading.Thread(target=_serve, args=(slot, self._calls), daemon=True, name="grading")
            self._slots.append(slot)
            self._threads.append(thread)
            thread.start()


@dataclass(frozen=True)
class _Call:
    frame: bytes
    deadline: float
    future: Future[Outcome]


class _Slot:
    """The place of one worker. Its thread starts, asks and replaces the process; `stop` may come from another."""

    def __init__(self, memory: int, prepare: str) -> None:
        self.memory, self.prepare = memory, prepare
        self.stopped = False
        self.lock = threading.RLock()
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None

    def ask(self, call: _Call) -> Outcome:
        """The outcome of one call; the worker is replaced unless it answered."""
        try:
            channel = self.hand(call)
            outcome = self.finish(channel, call.deadline) if channel else Outcome("the worker died", "died")
        except OSError as error:
            outcome = Outcome(f"the worker's channel broke: {error}", "died")
        if outcome.status in ("timeout", "died") or _unsound(outcome):
            self.end()
        return outcome

    def hand(self, call: _Call) -> socket.socket | None:
        """Give a call to the worker; its channel once it has started on the call, None where it died before."""
        try:
            channel = self.start()
            channel.settimeout(START)
            transmit(channel, call.frame)
            message = _message(receive(channel, RESULT_LIMIT))
        except TimeoutError:
            self.end()
            raise EngineDead(f"a grading worker did not start or import its target within {START:g} s") from None
        if message.get("status") == "missing":
            raise EngineDead(f"a grading worker cannot import its target: {message.get('value')}")
        return channel if message.get("status") == "started" else None

    def finish(self, channel: socket.socket, deadline: float) -> Outcome:
        """The outcome of a call that has started."""
        end = time.monotonic() + deadline
        try:
            channel.settimeout(deadline)
            channel.recv(1, socket.MSG_PEEK)
            channel.settimeout(max(end - time.monotonic(), 0.1))
            message = _message(receive(channel, RESULT_LIMIT))
        except TimeoutError:
            return Outcome(f"no answer within {deadline:g} s", "timeout")
        if message.get("status") in ("ok", "raised"):
            return Outcome(message.get("value"), message["status"])
        return Outcome("the worker died", "died")

    def start(self) -> socket.socket:
        """The channel of a living worker, started where there is none."""
        with self.lock:
            if self.channel is not None and self.process is not None and self.process.poll() is None:
                return self.channel
            self.end()
            if self.stopped:
                raise OSError("the pool is closed")
            ours, theirs = socket.socketpair()
            with theirs:
                self.process = subprocess.Popen(
                    command(theirs.fileno(), os.getpid(), self.memory, self.prepare),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                )
            self.channel = ours
        ours.settimeout(START)
        message = _message(receive(ours, RESULT_LIMIT))
        if message.get("status") != "ready" and not self.stopped:
            raise EngineDead(f"a grading worker ended at its start: {message.get('value', 'it said nothing')}")
        return ours

    def end(self) -> None:
        """Kill the worker and every process below it. It is stopped first: nothing may start meanwhile."""
        with self.lock:
            if self.process is not None:
                send_group(self.process.pid, signal.SIGSTOP)
                end_below(self.process.pid)
                send_group(self.process.pid, signal.SIGKILL)
                self.process.wait()
            if self.channel is not None:
                self.channel.close()
            self.process = self.channel = None

    def stop(self) -> None:
        """End the worker for good."""
        with self.lock:
            self.stopped = True
            self.end()


def _unsound(outcome: Outcome) -> bool:
    """Whether a worker's libraries may be in any state."""
    return outcome.status == "raised" and str(outcome.value).startswith(("MemoryError", "RecursionError"))


def _message(frame: bytes | None) -> dict[str, Any]:
    """What a worker's frame says; a worker that sends what it should not is as good as dead."""
    try:
        message = json.loads(frame) if frame is not None else {}
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _serve(slot: _Slot, calls: queue.SimpleQueue[_Call | None]) -> None:
    """The life of a slot's thread. The worker ends with it: that is how it ends with this process."""
    while (call := calls.get()) is not None:
        try:
            call.future.set_result(slot.ask(call))
        except BaseException as error:
            slot.end()
            call.future.set_exception(error)
    slot.stop()


def _close(
    owner: int, calls: queue.SimpleQueue[_Call | None], threads: Sequence[threading.Thread], slots: Sequence[_Slot]
) -> None:
    if os.getpid() != owner:  # a fork of the process that has the workers
        return
    for _ in threads:
        calls.put(None)
    for slot in slots:
        slot.stop()
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(timeout=10)
    with contextlib.suppress(queue.Empty):
        while True:
            left = calls.get_nowait()
            if left is not None:
                left.future.set_result(Outcome("the pool is closed", "died"))
