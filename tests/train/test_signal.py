"""A run without signal says so and stops; a method that needs what the data lacks is refused before loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rekindle.api import train
from rekindle.errors import GuardStop, InputError

OPTIONS = {"checkpoint.every": 0, "rollout.prompts": 2, "rollout.group": 4, "rollout.max_tokens": 4}


def rows(path: Path, count: int = 4, **extra: str) -> Path:
    lines = [
        json.dumps({"prompt": f"{n}=", "answer": "no digit can say this", **extra}) for n in range(100, 100 + count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_run_that_cannot_learn_stops_after_the_stated_number_of_steps(tmp_path: Path) -> None:
    data = rows(tmp_path / "rows.jsonl")
    with pytest.raises(GuardStop, match=r"taught anything in the last 3 steps.*empty_steps=0"):
        train("grpo", data=data, steps=9, out=tmp_path / "run", options={**OPTIONS, "empty_steps": 3})
    folder = train("grpo", data=data, steps=5, out=tmp_path / "on", options={**OPTIONS, "empty_steps": 0})
    assert Path(folder).is_dir()


def test_a_regulariser_alone_is_no_signal_and_an_echo_is(tmp_path: Path) -> None:
    data = rows(tmp_path / "rows.jsonl")
    with pytest.raises(GuardStop):
        train("entropy_bonus", data=data, steps=9, out=tmp_path / "run", options={**OPTIONS, "empty_steps": 3})


@pytest.mark.parametrize(("method", "column"), [("luffy", "demonstration"), ("co_rewarding", "paraphrase")])
def test_a_missing_column_is_named_with_the_first_prompt(tmp_path: Path, method: str, column: str) -> None:
    data = rows(tmp_path / "rows.jsonl")
    with pytest.raises(InputError, match=f"needs a column '{column}'"):
        train(method, data=data, model=str(tmp_path / "no-such-model"), steps=1, out=tmp_path / "run", options=OPTIONS)
    assert not (tmp_path / "run").exists()
