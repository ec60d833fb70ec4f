"""A run that replays, follows its last policy and becomes its own reference is killed and goes on as if it were not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rekindle.api import train
from rekindle.train.events import read_events
from rekindle.train.retention import checkpoints
from tests.methods.resumed import SMALL, assert_alike, memory

STEPS, BORDER = 8, 4
OPTIONS = {**SMALL, "descent.lr": 1e-3, "terms.0.coef": 0.1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    return train("remix", task="digit_sum", steps=STEPS, out=out, options=OPTIONS)


def killed(out: Path, first: int, last: int) -> bool:
    """Whether the run in a process of its own was killed with `first` to `last` steps in its latest checkpoint."""
    sets = [f"{name}={str(value).lower()}" for name, value in OPTIONS.items()]
    command = [sys.executable, "-c", "from rekindle.cli.main import main; main()", "train", "remix"]
    command += ["--task", "digit_sum", "--steps", str(STEPS), "--out", str(out)]
    command += [word for text in sets for word in ("--set", text)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while done(out) < first and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert done(out), f"no checkpoint within 600 s, exit code {process.returncode}"
    return first <= done(out) <= last


def done(out: Path) -> int:
    """Steps in the latest checkpoint; 0 without one."""
    return max((int(place.name.partition("-")[2]) for place in checkpoints(out / "checkpoints")), default=0)


@pytest.mark.parametrize(("first", "last"), [(2, BORDER - 1), (BORDER + 1, STEPS - 1)], ids=["before", "after"])
def test_killed_on_either_side_of_the_border_it_resumes_bit_for_bit(
    whole: Path, tmp_path: Path, first: int, last: int
) -> None:
    # On a busy machine the kill may come too late, which proves nothing: then again.
    tries = (tmp_path / f"run{i}" for i in range(5))
    out = next(out for out in tries if killed(out, first, last))
    state = checkpoints(out / "checkpoints")[-1] / "state"
    assert (state / "kept.safetensors").is_file() == (last < BORDER) and (
        state / "snapshot-previous.safetensors"
    ).is_file()
    assert (state / "snapshot-reference.safetensors").is_file() == (last >= BORDER)
    train("remix", task="digit_sum", steps=STEPS, out=out, options=OPTIONS, resume=True)
    for step in range(first, STEPS + 1):
        assert_alike(whole, out, step)
    ours, theirs = (load_file(run / "final" / "model.safetensors") for run in (whole, out))
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_a_run_samples_less_before_the_border_and_says_what_is_replayed(whole: Path) -> None:
    steps = [r for r in read_events(whole / "events.jsonl") if r["kind"] == "step"]
    assert [r["responses"] for r in steps] == [24, *[16] * (BORDER - 1), *[24] * (STEPS - BORDER)]
    assert [r.get("replay/rows") for r in steps[:BORDER]] == pytest.approx([0, *[1 / 3] * (BORDER - 1)])
    assert not any("replay/rows" in r for r in steps[BORDER:])
    assert memory(whole, STEPS)["reincarnated"] == BORDER and "reincarnated" not in memory(whole, BORDER)
