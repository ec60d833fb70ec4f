"""Samplers and graders that are killed while a run needs them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from rekindle.tokens.grading.grader import Grader
from rekindle.train.retention import checkpoints
from tests.faults.conftest import Fault
from tests.faults.cuts import ENVIRONMENT, STEPS, command, words
from tests.faults.same import differences
from tests.tokens.grading.test_grader import rows

FLEET = {"rollout.sampler": "ray", "ray.samplers": 1, "rollout.block": 2, "checkpoint.every": 1}


def workers() -> set[int]:
    """The grading processes below this one."""
    below = psutil.Process().children(recursive=True)
    return {p.pid for p in below if p.status() != psutil.STATUS_ZOMBIE and "grading" in " ".join(p.cmdline())}


def test_graders_that_are_killed_are_replaced(fault: Fault) -> None:
    grader = Grader("math", "boxed", deadline=20.0)
    try:
        first = rows(grader, [r"\boxed{x+y}", r"\boxed{x-y}"], "y+x")
        before = workers()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        second = rows(grader, [r"\boxed{y+x+0}", r"\boxed{y-x}", r"\boxed{2y+x}"], "y+x")
        assert [grade.success for grade in first] == [True, False]
        assert [grade.success for grade in second] == [True, False, False]
        assert before and workers() and not before & workers()
    finally:
        grader.close()
    fault("processes", "every grading worker is killed between two batches", "replaced; no grade is lost or changed")


def actors(pid: int) -> list[int]:
    """The processes of Ray's actors below a process, once there are some."""
    last = time.monotonic() + 600
    while time.monotonic() < last:
        with suppress(psutil.Error):
            found = [
                p.pid for p in psutil.Process(pid).children(recursive=True) if "Actor" in " ".join(p.cmdline()[:1])
            ]
            if found:
                return found
        time.sleep(0.05)
    raise AssertionError("no actor was started")


def struck(out: Path, options: dict[str, object]) -> tuple[int, str]:
    """A run of which an actor is killed once a checkpoint is there: its exit code and what it said."""
    line = words("--out", str(out), options={"steps": STEPS, **options})
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(line, env=ENVIRONMENT, text=True, **quiet)
    last = time.monotonic() + 600
    while not checkpoints(out / "checkpoints"):
        assert process.poll() is None and time.monotonic() < last
        time.sleep(0.01)
    for pid in actors(process.pid):
        os.kill(pid, signal.SIGKILL)
    said = process.communicate(timeout=900)[1]
    return process.returncode, said


@pytest.mark.heavy
def test_a_sampler_that_dies_for_good_saves_the_steps_done(tmp_path: Path, fault: Fault) -> None:
    reference = tmp_path / "whole"
    assert command("--out", str(reference), options=FLEET).returncode == 0
    code, said = struck(tmp_path / "run", {**FLEET, "ray.restarts": 0})
    assert code == 4 and "Traceback" not in said.rpartition("rekindle: ")[2], said
    again = command("--out", str(tmp_path / "run"), "--resume", options={**FLEET, "ray.restarts": 0})
    assert again.returncode == 0, again.stderr
    assert differences(reference, tmp_path / "run") == []
    does = "exit code 4, all steps done are saved; --resume ends bit for bit as the uninterrupted run"
    fault(
        "processes",
        "the only sampling actor of a Ray fleet is killed, no restarts",
        does,
        said.strip().splitlines()[-1],
    )


@pytest.mark.heavy
def test_a_sampler_that_is_replaced_changes_nothing(tmp_path: Path, fault: Fault) -> None:
    reference = tmp_path / "whole"
    assert command("--out", str(reference), options=FLEET).returncode == 0
    code, said = struck(tmp_path / "run", FLEET)
    assert code == 0, said
    assert differences(reference, tmp_path / "run") == []
    does = "another is started and draws the same; the run ends bit for bit as the uninterrupted one"
    fault("processes", "the only sampling actor of a Ray fleet is killed", does)
