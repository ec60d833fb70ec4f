"""Processes that die, folders that two of them want, signals, and clocks that jump."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from rekindle.train import events as events_module
from rekindle.train.retention import checkpoints
from tests.faults.conftest import Fault
from tests.faults.cuts import ENVIRONMENT, STEPS, command, gone_on, marks, whole, words
from tests.faults.kill_ranks import ranks_of
from tests.faults.same import differences

SLOW = {"rollout.prompts": 16, "descent.minibatches": 4}
"""So many updates that a signal comes into one."""
RANKS = {"ranks": 2, "rollout.block": 2, "descent.micro_batch": 8}


def started(out: Path, options: dict[str, int]) -> subprocess.Popen[str]:
    """The command line, in a process that goes on."""
    line = words("--out", str(out), options={"steps": STEPS, **options})
    return subprocess.Popen(line, env=ENVIRONMENT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def until(out: Path, process: subprocess.Popen[str], step: int, seconds: float = 600) -> None:
    """Wait for the checkpoint of a step."""
    last = time.monotonic() + seconds
    while not (out / "checkpoints" / f"step-{step:06d}").is_dir():
        assert process.poll() is None and time.monotonic() < last, process.stderr
        time.sleep(0.005)


def struck(out: Path, options: dict[str, int], strike: Callable[[int], None]) -> tuple[int, str]:
    """A run that is struck by its process id once step 1 is saved: its exit code, and what it said.

    Tried again where it was over before: this process may have stood still in between.
    """
    for _ in range(5):
        process = started(out, options)
        until(out, process, 1)
        with suppress(ProcessLookupError, IndexError):  # it has just ended
            strike(process.pid)
        said = process.communicate(timeout=600)[1]
        if process.returncode:
            return process.returncode, said
        shutil.rmtree(out)
    raise AssertionError("it ends as if nothing had struck it")


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole(tmp_path_factory.mktemp("whole") / "run", options=SLOW)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.heavy)]
)
def test_one_signal_saves_and_ends(
    number: signal.Signals, code: int, complete: Path, tmp_path: Path, fault: Fault
) -> None:
    out = tmp_path / "run"
    got, said = struck(out, SLOW, lambda pid: os.kill(pid, number))
    assert got == code and "Traceback" not in said
    assert "saving at the next safe place" in said and "with --resume goes on" in said and number.name in said
    assert [record["signal"] for record in marks(out, "stop")] == [number.name]
    gone_on(out, options=SLOW)
    assert differences(complete, out) == []
    does = f"the update is finished, the run saved, inside its step if need be (exit code {code}); resumes bit for bit"
    fault("signals", f"{number.name} while a run trains", does, said.splitlines()[-1])


DREAMS = """
import pathlib
import time
from rekindle.methods import grpo

def dream(advantage, batch):
    pathlib.Path("{dreaming}").touch()
    time.sleep(300)
    return advantage

def method():
    return grpo.method().replace(modulate=(dream,))
"""


def asleep(out: Path) -> subprocess.Popen[str]:
    """A run that has begun a step and stays in it."""
    own, dreaming = out.with_suffix(".py"), out.with_suffix(".dreaming")
    own.write_text(DREAMS.replace("{dreaming}", str(dreaming)))
    line = [f"{own}:method" if word == "grpo" else word for word in words("--out", str(out), options={"steps": STEPS})]
    process = subprocess.Popen(line, env=ENVIRONMENT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    last = time.monotonic() + 600
    while not dreaming.exists():
        assert process.poll() is None and time.monotonic() < last
        time.sleep(0.01)
    return process


def test_the_second_signal_ends_at_once(tmp_path: Path, fault: Fault) -> None:
    for attempt in range(5):  # the two that are one request may come too far apart on a machine that stands still
        out = tmp_path / f"run{attempt}"
        process = asleep(out)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None and "saving at the next safe place" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)  # the same request, as a scheduler and a launcher both make it
        time.sleep(0.7)
        if process.poll() is None:
            break
        process.communicate()
    assert process.poll() is None, "two in a row are one"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGTERM and marks(out, "stop") == []
    does = "the process ends at once, nothing is written; two within half a second are one request"
    fault("signals", "a second SIGTERM, while a step takes its time", does)


def test_a_folder_belongs_to_one_process(tmp_path: Path, fault: Fault) -> None:
    out = tmp_path / "run"
    first = started(out, SLOW)
    until(out, first, 1)
    os.kill(first.pid, signal.SIGSTOP)  # it holds the folder for as long as this test takes
    second = command("--out", str(out), "--resume", options=SLOW)
    os.kill(first.pid, signal.SIGCONT)
    assert second.returncode == 2 and f"in use by process {first.pid}" in second.stderr
    first.kill()
    first.communicate()
    third = command("--out", str(out), "--resume", options=SLOW)
    assert third.returncode == 0, "the system freed it"
    does = "the second is refused (exit code 2); once the first is gone, be it by SIGKILL, the folder is free"
    fault("processes", "two processes want one run folder", does, second.stderr)


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    reference, rng = whole(tmp_path / "whole"), random.Random(0)
    monkeypatch.setattr(events_module.time, "time", lambda: rng.choice([0.0, 1e9, -5e5, 4e9]) + rng.random())
    assert differences(reference, whole(tmp_path / "run")) == []
    seconds = [record["time"]["seconds"] for record in marks(tmp_path / "run", "step")]
    assert all(0 < value < 60 for value in seconds), "durations come from a clock that only runs forward"
    does = "weights and events are the same; only the note of the hour is wrong, durations are right"
    fault("signals", "the wall clock jumps by years between any two events", does)


@pytest.mark.heavy
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_saves_all_ranks(number: signal.Signals, tmp_path: Path, fault: Fault) -> None:
    out, reference = tmp_path / "run", tmp_path / "whole"
    assert command("--out", str(reference), options=RANKS).returncode == 0
    code, said = struck(out, RANKS, lambda pid: os.kill(pid, number))
    assert code == 128 + number and f"stopped by {number.name}" in said and "Traceback" not in said
    assert checkpoints(out / "checkpoints")
    assert command("--out", str(out), "--resume", options=RANKS).returncode == 0
    assert differences(reference, out) == []
    does = "both ranks stop at the same update and save; --resume ends bit for bit"
    fault("signals", f"{number.name} to a run of two ranks", does, said.splitlines()[-1])


@pytest.mark.heavy
def test_a_dead_rank_ends_the_run_in_a_sentence(tmp_path: Path, fault: Fault) -> None:
    out, reference = tmp_path / "run", tmp_path / "whole"
    assert command("--out", str(reference), options=RANKS).returncode == 0
    code, said = struck(out, RANKS, lambda pid: os.kill(ranks_of(pid)[1], signal.SIGKILL))
    assert code == 4 and "rank 1 was killed (SIGKILL)" in said
    assert command("--out", str(out), "--resume", options=RANKS).returncode == 0
    assert differences(reference, out) == []
    does = "the other rank is stopped, exit code 4 with the rank's name; --resume ends bit for bit"
    fault("processes", "one of two ranks is killed", does, said.splitlines()[-1])
