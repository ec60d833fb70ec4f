"""Runs whose responses are graded in workers: hanging answers cost a run nothing but their own success."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rekindle.api import train
from rekindle.errors import InputError
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.train.events import read_events
from rekindle.train.run import Run
from tests.tokens.grading.seen import workers

SMALL = {
    "rollout.prompts": 2,
    "rollout.group": 4,
    "rollout.max_tokens": 8,
    "evaluate.baseline": False,
    "checkpoint.every": 0,
    "system_prompt": "",
    "grading.by": "math",
    "grading.deadline": 6.0,
}
FORCED = (r"\boxed{2\cdot 4}", r"\boxed{9^{9^{9^9}}}", r"\boxed{9}", "nothing")


def data(folder: Path, answers: Sequence[str]) -> Path:
    rows = [{"prompt": f"{i}+{i}=", "answer": answer} for i, answer in enumerate(answers)]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every group says the same four things, whatever the model drew."""
    drawn = Run.sample

    def sample(self: Run, examples: Sequence[Example]) -> Rollouts:
        rollouts = drawn(self, examples)
        return replace(rollouts, text=list(FORCED) * (len(rollouts) // 4), finish=["eos"] * len(rollouts))

    monkeypatch.setattr(Run, "sample", sample)


@pytest.mark.usefixtures("forced")
def test_a_run_goes_on_where_answers_hang(tmp_path: Path) -> None:
    file = data(tmp_path, ["8", "8", "16/2", "8"])
    out = train("grpo", data=file, steps=2, out=tmp_path / "run", options=SMALL)
    steps = [e for e in read_events(out / "events.jsonl") if e["kind"] == "step"]
    assert len(steps) == 2
    for step in steps:
        assert step["success"] == 0.25 and step["graded"] == 1.0 and step["groups/dead"] == 0.0
        assert step["grading/ok"] == 0.5 and step["grading/timeout"] == 0.25 and step["grading/no_answer"] == 0.25
        assert step["grading/infra_error"] == step["grading/reference_invalid"] == 0.0
        assert step["truth/pass@1"] == 0.25
    assert not workers(), "the run has ended its workers"


@pytest.mark.usefixtures("forced")
def test_a_vote_by_mathematics_runs(tmp_path: Path) -> None:
    file = data(tmp_path, ["8", "8"])
    out = train("ttrl", data=file, steps=1, out=tmp_path / "run", options={**SMALL, "rollout.votes": 4})
    (step,) = [e for e in read_events(out / "events.jsonl") if e["kind"] == "step"]
    assert step["no_answer"] == 0.25 and step["vote/majority_share"] == 0.25


def test_a_run_is_refused_before_it_starts(tmp_path: Path) -> None:
    hanging = data(tmp_path, ["9^{9^{9^9}}", "8"])
    with pytest.raises(InputError, match=r"grading.by=math cannot use the reference of 'line-1' .*repair these rows"):
        train("grpo", data=hanging, steps=1, out=tmp_path / "run", options=SMALL)
    with pytest.raises(InputError, match="task digit_sum grades itself"):
        train("grpo", task="digit_sum", steps=1, out=tmp_path / "run", options={"grading.extract": "any"})
    assert not (tmp_path / "run").exists() and not workers()
