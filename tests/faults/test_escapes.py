"""No program gets out of the sandbox. That each could is seen by running it without the barriers, where it is safe."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rekindle.tokens.grading.pool import Pool
from tests.faults.escaped import World
from tests.faults.escapes import START, Attempt
from tests.faults.escapes_more import ATTEMPTS

LATE = 25.0
"""Seconds beyond a program's time in which it must be gone, on a machine that may stand still: what goes on for longer
would win (`World.known`), or run into the time of the pool."""
PATIENCE = 20.0
"""Seconds that a control is given to show."""
EACH = [(area, name) for area, some in ATTEMPTS.items() for name in some]
FAST = [(area, name) for area, name in EACH if not ATTEMPTS[area][name].heavy]
SLOW = [(area, name) for area, name in EACH if ATTEMPTS[area][name].heavy]


class Watched:
    """A worker and the world around it."""

    def __init__(self) -> None:
        self.world = World()
        self.pool = Pool(1, deadline=60.0)
        self.output = ""
        self.world.worker = self.asked("tests.faults.escaped:who")

    def asked(self, target: str, *call: Any) -> Any:
        (outcome,) = self.pool.map(target, [call])
        return outcome.value if outcome.status == "ok" else {"output": "", "status": outcome.status}

    def source(self, attempt: Attempt, **long: float) -> str:
        self.world.mend()
        return f"W = {self.world.known(**long)!r}\n{START}\n{attempt.source}"

    def inside(self, attempt: Attempt) -> list[str]:
        """What a program got at from within the sandbox."""
        source, began = self.source(attempt), time.monotonic()
        ran = self.asked("tests.faults.escaped:ran", source, attempt.seconds, self.world.known()["canary"])
        took, self.output = time.monotonic() - began, ran["output"]
        found = self.world.escaped(ran["output"])
        found += ["it ran beyond its time"] if took > attempt.seconds + LATE else []
        found += ["it harmed the worker"] if self.asked("tests.faults.escaped:who") != self.world.worker else []
        return found

    def outside(self, attempt: Attempt) -> list[str]:
        """What the same program gets at without any barrier."""
        said = self.world.without(self.source(attempt, long=0.3))
        last = time.monotonic() + (PATIENCE if attempt.control else 0.5)
        while not (found := self.world.escaped(said)) and time.monotonic() < last:
            time.sleep(0.1)  # a busy machine takes a while to stop a process
        return found

    def close(self) -> None:
        self.pool.close()
        self.world.close()


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    made = Watched()
    shut = made.asked("rekindle.tokens.grading.barriers:isolation")
    if not shut["files"] or shut["landlock"]:
        made.close()
        pytest.skip("no namespaces here")
    yield made
    made.close()


def administrator() -> bool:
    """Root of the machine, with all its capabilities."""
    held = Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0]
    return os.getuid() == 0 and int(held, 16) >> 21 & 1 == 1


def tries(watched: Watched, area: str, name: str) -> list[str]:
    """What is wrong with an attempt: it succeeds in the sandbox, or it does not without."""
    attempt = ATTEMPTS[area][name]
    wrong = [f"{area}: {name}: {what}" for what in watched.inside(attempt)]
    could = attempt.control == "yes" or (attempt.control == "admin" and administrator())
    if could and platform.machine() == "x86_64" and not watched.outside(attempt):
        wrong.append(f"{area}: {name}: does not succeed without the barriers either, so that it shows nothing")
    return wrong


def test_no_attempt_succeeds_and_each_could(watched: Watched, fault: Any) -> None:
    wrong = [what for area, name in FAST for what in tries(watched, area, name)]
    assert not wrong, "\n".join(wrong)
    could = [ATTEMPTS[area][name].control for area, name in FAST]
    counts = ", ".join(f"{sum(a == area for a, _ in FAST)} at {area}" for area in ATTEMPTS)
    fault(
        "processes",
        f"{len(FAST)} programs of a model that try to get out of the sandbox ({counts})",
        f"none succeeds; without barriers {len(could) - could.count('')} of them do ({could.count('admin')} as root)",
    )


@pytest.mark.heavy
@pytest.mark.parametrize(("area", "name"), SLOW)
def test_no_heavy_attempt_succeeds(watched: Watched, area: str, name: str) -> None:
    assert not tries(watched, area, name)


def test_what_is_watched_is_seen(watched: Watched) -> None:
    """The eyes of these tests: each kind of success is one that they see."""
    kinds = {
        "show(W['canary'])": "told",
        "send(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', W['port']))": "reached port",
        "os.unlink(W['victim'])": "changed a file",
        "os.kill(W['pid'], signal.SIGSTOP)": "changed a process",
        "python('import time; time.sleep(60)')\ntime.sleep(0.2)": "left a process",
        "pass": "",
    }
    for source, kind in kinds.items():
        found = watched.outside(Attempt(source, "yes" if kind else ""))
        assert (not found) if not kind else (len(found) == 1 and kind in found[0]), (source, found)
    assert watched.inside(Attempt("print('hello')", seconds=30.0)) == [] and "hello" in watched.output, (
        "programs do run inside"
    )
    assert len(EACH) >= 50
