"""Several ranks with a vLLM engine each: vLLM makes and ends process groups of its own in their midst."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rekindle.train.events import read_events


@pytest.mark.heavy
def test_two_ranks_with_an_engine_each_train_to_the_end(tmp_path: Path) -> None:
    words = ["train", "evol_rl", "--steps", "2", "--prompts", "4", "--group", "2", "--set", "rollout.votes=2"]
    words += ["--set", "evaluate.baseline=false", "--sampler", "vllm", "--ranks", "2", "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-m", "rekindle", *words], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    steps = [event for event in read_events(tmp_path / "run" / "events.jsonl") if event["kind"] == "step"]
    assert [step["responses"] for step in steps] == [8.0, 8.0], "the responses of both ranks, each once"
    assert all(step["sampler/gap"] < 1e-4 for step in steps)
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
