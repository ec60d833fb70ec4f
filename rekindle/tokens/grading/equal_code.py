"""Programs by their tests: all passed is a success, the share of passed tests is told besides. Runs in a worker."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rekindle.tokens.grading.asserts import Test, decoded, holds
from rekindle.tokens.grading.barriers import isolation, lacking, sentence
from rekindle.tokens.grading.cases import read_tests
from rekindle.tokens.grading.elsewhere import run_elsewhere
from rekindle.tokens.grading.sandbox import Ran, run

TEST_SECONDS = 5.0
"""Wall time of one test at most."""
STARTS = 10
"""Programs that a worker starts in a second, about: each test, and each call of an assertion, starts one."""
Runs = Callable[[str, str | None, str, float], Ran]
"""What runs a program: (source, call, stdin, seconds) -> how it ended."""


def passes(tests_text: str, source: str, seconds: float, sandbox: str = "", unsafe: bool = False) -> dict[str, Any]:
    """{"success", "share", "tests", "why"}; success None where the tests cannot be used. seconds: for all tests.

    Every test has a process of its own. The first that runs out of time ends it: those not run count as failed.
    sandbox: where programs run, "" here; unsafe: here though files or the network are not cut off.
    """
    try:
        tests = _usable(tests_text, seconds)
    except ValueError as error:
        return {"success": None, "why": str(error)}
    runs = runner(sandbox, unsafe)
    end = time.monotonic() + seconds
    faults: list[str] = []
    for done, test in enumerate(tests):
        fault = judge(test, source, min(TEST_SECONDS, end - time.monotonic()), runs)
        if fault == "timeout":
            faults += [fault] * (len(tests) - done)
            break
        faults += [fault] if fault else []
    share = 1 - len(faults) / len(tests)
    told = {"success": not faults, "share": share, "tests": len(tests), "why": faults[0] if faults else ""}
    return {**told, "timeout": True} if "timeout" in faults else told


def check(tests_text: str, seconds: float = math.inf) -> dict[str, Any]:
    """Whether tests can be used, and all of them run in so many seconds."""
    try:
        _usable(tests_text, seconds)
    except ValueError as error:
        return {"success": None, "why": str(error)}
    return {"success": True, "why": ""}


def _usable(tests_text: str, seconds: float) -> list[Test]:
    """The tests of a row; ValueError also where no program, however fast, could be run on all of them."""
    tests = read_tests(tests_text)
    programs = sum(len(test.calls) or 1 for test in tests)
    if programs > seconds * STARTS:
        raise ValueError(
            f"{programs} tests take about {1 / STARTS} s each to start, more than grading.deadline={seconds:g}: "
            f"raise grading.deadline to {2 * math.ceil(programs / STARTS)}, or drop some of these tests"
        )
    return tests


def runner(sandbox: str, unsafe: bool) -> Runs:
    """What runs programs; RuntimeError, with the remedy, where they would not be cut off from what they must be."""
    if sandbox:
        return partial(run_elsewhere, sandbox)
    missing = lacking(isolation(), unsafe)
    if missing:
        raise RuntimeError(sentence(missing))
    return partial(run, needed=("pid",)) if unsafe else run


def ready() -> None:
    """Find out what this machine can cut programs off from, once for a worker."""
    isolation()


def shut_off() -> dict[str, bool]:
    """What programs are cut off from on this machine, by the keys of `barriers.BARRIERS`."""
    return isolation()


def judge(test: Test, source: str, seconds: float, runs: Runs = run) -> str:
    """Why a program fails a test; "" where it passes, "timeout" where it ran out of time."""
    end = time.monotonic() + seconds
    if test.output is not None:
        ran = runs(source, None, test.stdin, max(end - time.monotonic(), 0))
        return _unfinished(ran) or ("" if lines(ran.output) == lines(test.output) else "another output")
    answers = []
    for call in test.calls:
        ran = runs(source, call, "", max(end - time.monotonic(), 0))
        if ran.status != "ok" or not ran.answered:
            return _unfinished(ran) or "no value came back"
        try:
            answers.append(decoded(ran.value))
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            return str(error)[:100]
    return "" if holds(test, answers) else "another value"


def _unfinished(ran: Ran) -> str:
    why = {"ok": "", "failed": "the program failed", "output": "too much output", "processes": "too many processes"}
    why |= {"memory": "too much memory"}
    return why.get(ran.status, ran.status)


def lines(text: str) -> list[str]:
    """The lines of an output without the white space at their ends and the blank lines at its end."""
    return [line.rstrip() for line in text.rstrip().splitlines()]
