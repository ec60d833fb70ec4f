"""A run that collapses, by a learning rate far too high: what it says, and that it stops where it is asked to."""

from __future__ import annotations

from pathlib import Path

import pytest

from rekindle.train.events import read_events
from rekindle.train.retention import checkpoints
from tests.cli.folders import rekindle
from tests.faults.conftest import Fault

ASKED = ["train", "srt", "--task", "digit_sum", "--steps", "60", "--prompts", "4", "--group", "16"]
SMALL = {
    "rollout.votes": 16,
    "descent.lr": 4e-3,
    "evaluate.prompts": 10,
    "evaluate.samples": 16,
    "evaluate.baseline": "false",
    "checkpoint.digests": 0,
    "checkpoint.rollouts": 0,
}


def asked(out: Path, **more: object) -> list[str]:
    told = {**SMALL, **{name.replace("__", "."): value for name, value in more.items()}}
    return [*ASKED, "--out", str(out), *(f"--set={name}={value}" for name, value in told.items())]


def test_a_collapse_stops_the_run(fault: Fault, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    ended = rekindle(capsys, *asked(out, evaluate__every=5), "--stop-on-collapse")
    assert ended.code == 3 and "the run is collapsing: entropy fell" in ended.err and "pass@16 fell from" in ended.err
    last = read_events(out / "events.jsonl")[-1]
    assert last["kind"] == "collapse" and last["step"] < 60
    assert checkpoints(out / "checkpoints")[-1].name == f"step-{last['step']:06d}"
    fault(
        "collapse",
        "a label-free run at eight times the learning rate of its task, with --stop-on-collapse",
        "it stops with the evidence (exit 3) before its last step, and that step is saved",
        said=ended.err.splitlines()[-1],
    )


@pytest.mark.heavy
def test_without_evaluation_the_training_alone_decides(
    fault: Fault, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = rekindle(capsys, *asked(tmp_path / "run"), "--stop-on-collapse")
    assert ended.code == 3 and "signs of the training alone decide" in ended.out + ended.err
    assert "the commonest answer holds" in ended.err and "pass@" not in ended.err.splitlines()[-1]
    fault(
        "collapse",
        "the same without held-out evaluation, and without looking at any label",
        "a note says so beforehand; locked-in votes and falling entropy stop it (exit 3)",
        said=ended.err.splitlines()[-1],
    )
