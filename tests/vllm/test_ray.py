"""Two vLLM engines in actors: ten steps, checked after every push, and one of them killed in mid-generation."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from rekindle.tokens.sampling.ray_fleet import RayCrew
from rekindle.train import fleets
from tests.ray.test_ray_runs import Strike, signalled
from tests.train.test_ahead import nothing_lost_or_repeated, run, steps_of

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
TEN: dict[str, Any] = {
    "task": "reduce",
    "ray.engine": "vllm",
    "rollout.prompts": 4,
    "rollout.max_tokens": 40,
    "vllm.seats": 16,
    "vllm.probe": 4,
    "checkpoint.every": 5,
}


def test_ten_steps_on_two_engines_that_are_checked_after_every_push(tmp_path: Path) -> None:
    out = run(tmp_path / "run", 10, **TEN)
    told = steps_of(out)
    assert len(told) == 10
    for event in told:
        assert event["sampler/tensors"] > 10 and event["sampler/probe_max"] < 1e-3
        assert event["sampler/gap"] < 1e-4 and event["sampler/capped"] == 0.0 and event["responses"] == 12
    nothing_lost_or_repeated(out, 10, prompts=4, task="reduce")


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_run_goes_on_where_an_engine_is_killed_in_mid_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, staleness: int
) -> None:
    sent: list[Strike] = []

    def faulty(*given: Any) -> RayCrew:
        crew = RayCrew(*given)
        sent.append(signalled(crew, signal.SIGKILL, after=0.01, draws=6))
        return crew

    monkeypatch.setattr(fleets, "RayCrew", faulty)
    out = run(tmp_path / "run", 10, **{**TEN, "ray.staleness": staleness})
    assert len(sent[0].pids) == 1 and sent[0].replaced == [0], "it was killed while it drew"
    nothing_lost_or_repeated(out, 10, prompts=4, task="reduce")
    ages = [event["sampler/staleness"] for event in steps_of(out)] if staleness else []
    assert ages == ([0, 1] + [2] * 8 if staleness else [])
