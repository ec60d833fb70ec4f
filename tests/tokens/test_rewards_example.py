"""examples/04_rewards_from_trl.py runs as its docstring says, and as TRL would call it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from rekindle.api import train
from rekindle.tokens.plugins import load_value
from rekindle.train.events import read_events

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "04_rewards_from_trl.py"


def test_a_run_with_both_functions(tmp_path: Path) -> None:
    options = {"rollout.prompts": 2, "rollout.group": 8, "checkpoint.every": 0}
    specs = [f"{EXAMPLE}:right", f"{EXAMPLE}:short=0.2"]
    folder = train("grpo", task="digit_sum", reward=specs, steps=1, out=tmp_path / "run", options=options)
    (step,) = [record for record in read_events(folder / "events.jsonl") if record["kind"] == "step"]
    name = "reward/04_rewards_from_trl.py"
    assert step["score"] == pytest.approx(step[f"{name}:right"] + 0.2 * step[f"{name}:short"])
    table = pq.read_table(folder / "rollouts" / "step-000001.parquet").to_pydict()
    assert step[f"{name}:short/longest"] == max(table["tokens"])
    assert 0 < step[f"{name}:right"] < 1, "alive"


def test_the_functions_as_trl_calls_them() -> None:
    said: dict[str, Any] = {}
    arguments: dict[str, Any] = {
        "prompts": ["12=", "34="],
        "completions": ["157", "8"],
        "completion_ids": [[1, 2], [3]],
        "answer": ["113", None],
        "trainer_state": SimpleNamespace(global_step=1, max_steps=2),
        "log_extra": said.__setitem__,
        "log_metric": said.__setitem__,
    }
    assert load_value(f"{EXAMPLE}:right")(**arguments) == [1.0, None]
    assert asyncio.run(load_value(f"{EXAMPLE}:short")(**arguments)) == [0.25, 0.5]
    assert said == {"sum": [3, 8], "longest": 2}
