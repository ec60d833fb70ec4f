"""SIGTERM and SIGINT: the first saves at the next safe place and ends the run, the second ends the process at once.

A safe place is before an update and after a step. Schedulers signal every process of a job, and a launcher passes on
what it got: a signal within `REPEAT` seconds of the first is the same request.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from rekindle.core.opened import Opened
from rekindle.core.ranks import Ranks
from rekindle.errors import Stopped, StoppedByHand

SIGNALS = (signal.SIGTERM, signal.SIGINT)
REPEAT = 0.5


class Halted(Exception):
    """A stop was asked for inside a step; `opened` is what is left of it."""

    def __init__(self, opened: Opened) -> None:
        super().__init__()
        self.opened = opened


class Halt:
    """What signals ask of a run. Between entering and leaving, in the main thread, it hears them; elsewhere none come.

    speaks: whether the first signal is answered on stderr.
    """

    def __init__(self, speaks: bool = True) -> None:
        self.asked: signal.Signals | None = None
        self._speaks = speaks
        self._first = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Halt:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            if time.monotonic() - self._first < REPEAT:
                return
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.asked, self._first = signal.Signals(number), time.monotonic()
        if self._speaks:  # no print: it may hold a lock that this very process has
            os.write(
                2, f"rekindle: {self.asked.name}: saving at the next safe place; once more stops at once\n".encode()
            )

    def agreed(self, ranks: Ranks) -> signal.Signals | None:
        """The signal that any rank was sent; all ranks call it at the same places."""
        if ranks.count == 1:
            return self.asked
        told = [one for one in ranks.exchange(None if self.asked is None else int(self.asked)) if one is not None]
        return signal.Signals(told[0]) if told else None


def stopped(number: signal.Signals, where: str) -> Stopped:
    """The end of a run by a signal. where: what is saved, and how it goes on."""
    kind = StoppedByHand if number == signal.SIGINT else Stopped
    return kind(f"stopped by {number.name}: {where}")
