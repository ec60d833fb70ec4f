"""An engine that dies: what is on the disk stays true, and the run goes on as if it had not died."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rekindle.api import train
from rekindle.errors import EngineDead, Stopped
from rekindle.train import manifest
from rekindle.train.loop import UNEVALUATED
from rekindle.train.retention import checkpoints
from rekindle.train.run import Run
from tests.faults.same import differences
from tests.tokens.engines import CopyEngine
from tests.train.test_vllm_runs import engines

SMALL: dict[str, Any] = {
    "rollout.sampler": "vllm",
    "rollout.prompts": 2,
    "rollout.group": 3,
    "rollout.max_tokens": 8,
    "descent.minibatches": 2,
    "descent.lr": 1e-3,
    "vllm.probe": 1,
    "checkpoint.every": 1,
}


def run(out: Path, resume: bool = False, steps: int = 2, **more: Any) -> Path:
    return train("grpo", task="digit_sum", steps=steps, out=out, resume=resume, options={**SMALL, **more})


def contents(out: Path) -> dict[str, Any]:
    """Checkpoint -> the checksums of its files; all of them are whole."""
    there = checkpoints(out / "checkpoints")
    assert [manifest.damage(place) for place in there] == [None] * len(there)
    return {place.name: manifest.read(place)["files"] for place in there}


def stopped_before(monkeypatch: pytest.MonkeyPatch, step: int, update: int) -> None:
    """From here on a signal comes before this update (from 0) of this step (from 0)."""
    plain = Run.between

    def between(self: Run, opened: Any) -> None:
        if (self.step_index, opened.done) == (step, update):
            os.kill(os.getpid(), signal.SIGTERM)
        plain(self, opened)

    monkeypatch.setattr(Run, "between", between)


def restless(self: CopyEngine) -> None:
    raise EngineDead("the engine does not rest")


@pytest.mark.parametrize("update", [0, 1])
def test_an_engine_that_dies_in_a_reopened_step_leaves_the_steps_before_as_they_are(
    update: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines(monkeypatch)
    reference, out = run(tmp_path / "whole"), tmp_path / "run"
    with monkeypatch.context() as once, pytest.raises(Stopped):
        stopped_before(once, 1, update)
        run(out)
    before = contents(out)
    assert list(before) == ["step-000001", f"step-000001-update-{update:02d}"]
    with monkeypatch.context() as once, pytest.raises(EngineDead, match="does not rest"):
        once.setattr(CopyEngine, "sleep", restless)
        run(out, resume=True)
    assert contents(out) == before
    run(out, resume=True)
    assert differences(reference, out) == []


EVALUATED: dict[str, Any] = {
    "checkpoint.every": 5,
    "checkpoint.best": "pass@4",
    "evaluate.every": 1,
    "evaluate.prompts": 2,
    "evaluate.samples": 4,
    "evaluate.baseline": False,
    "descent.minibatches": 1,
    "vllm.probe": 0,  # other tokens are drawn for it in every process
}


@pytest.mark.parametrize(("steps", "deaths"), [(3, [3, -1]), (2, [3])])
def test_a_step_whose_evaluation_the_engine_died_in_is_evaluated_first(
    steps: int, deaths: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines(monkeypatch)
    reference, out = run(tmp_path / "whole", steps=steps, **EVALUATED), tmp_path / "run"
    for calls in deaths:  # one to sample and one to evaluate a step; -1: dead at once
        engines(monkeypatch, dies=calls)
        with pytest.raises(EngineDead):
            run(out, steps=steps, resume=out.exists(), **EVALUATED)
        assert checkpoints(out / "checkpoints")[-1].name == "step-000002" and contents(out)
        assert {path.name for path in (out / "evaluations").iterdir()} == {"step-000001-heldout.json"}
    engines(monkeypatch)
    run(out, steps=steps, resume=True, **EVALUATED)
    assert differences(reference, out) == []
    assert not [k for place in checkpoints(out / "checkpoints") for k in watched(place) if k == UNEVALUATED]


def watched(place: Path) -> dict[str, Any]:
    return json.loads((place / "state" / "run.json").read_text())["watched"]
