"""The processes of a run's ranks, as the one that started them sees them: waiting, ending, and what ended them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rekindle.errors import EngineDead
from rekindle.train.halt import Halt
from rekindle.train.ranks import FORESEEN, RankLost

ENDS: Mapping[str, type[Exception]] = {kind.__name__: kind for kind in FORESEEN}
GRACE = 3.0
"""Seconds that the other ranks have to end by themselves, and again after they were asked to."""


def followed(crew: Sequence[subprocess.Popen[bytes]], halt: Halt) -> None:
    """Wait until all ranks have ended, or one has failed; the first signal goes on to them."""
    passed_on = False
    while any(rank.poll() is None for rank in crew) and not any(rank.poll() for rank in crew):
        if halt.asked is not None and not passed_on:
            passed_on = True
            for rank in crew:
                rank.send_signal(halt.asked)
        time.sleep(0.05)


def settled(crew: Sequence[subprocess.Popen[bytes]], folder: Path) -> list[int]:
    """The exit codes as the ranks ended by themselves; 0 for one that had to be stopped because of another.

    Where all that ended say that they lost another, that one is waited for longer: it knows why.
    """
    if not any(rank.poll() for rank in crew):
        return [0] * len(crew)
    wait(crew, GRACE)
    words = last_words(folder)
    if all(words.get(index, ("", ""))[0] == RankLost.__name__ for index, rank in enumerate(crew) if rank.poll()):
        wait(crew, 10 * GRACE)
    codes = [rank.poll() or 0 for rank in crew]
    end(crew, (signal.SIGTERM, signal.SIGKILL))
    return codes


def end(crew: Sequence[subprocess.Popen[bytes]], signals: Sequence[signal.Signals]) -> None:
    """Send each signal in turn to the ranks, and to what they started even where they are gone, and wait a little."""
    for number in signals:
        for rank in crew:
            with suppress(ProcessLookupError):
                os.killpg(rank.pid, number)
        wait(crew, GRACE)


def wait(crew: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Until all have ended, at most so long."""
    last = time.monotonic() + seconds
    while any(rank.poll() is None for rank in crew) and time.monotonic() < last:
        time.sleep(0.02)


def cause(codes: Sequence[int], words: Mapping[int, tuple[str, str]]) -> BaseException:
    """What ended the ranks: a sentence of one of them, else a signal, else an error that it has printed itself."""
    said = [(kind, text) for kind, text in words.values() if kind != RankLost.__name__]
    if said:
        return ENDS[said[0][0]](said[0][1])
    killed = [(rank, -code) for rank, code in enumerate(codes) if code < 0]
    if killed:
        rank, number = killed[0]
        return EngineDead(
            f"rank {rank} was killed ({signal.Signals(number).name}), so the others were stopped: the same command "
            "with --resume goes on from the last checkpoint"
        )
    failed = [rank for rank, code in enumerate(codes) if code and rank not in words]
    if failed:
        print(f"rekindle: rank {failed[0]} ended with exit code {codes[failed[0]]}, see above", file=sys.stderr)
        return SystemExit(codes[failed[0]])
    return ENDS[RankLost.__name__](next(iter(words.values()))[1])


def last_words(folder: Path) -> dict[int, tuple[str, str]]:
    """Rank -> (kind of error, sentence) of those that left one, in their order."""
    files = sorted(folder.glob("rank-*.json"))
    return {int(file.stem.removeprefix("rank-")): tuple(json.loads(file.read_text("utf-8"))) for file in files}
