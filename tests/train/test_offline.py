"""Runs that learn from written rows: nothing is sampled, faults are told before the first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rekindle.api import train
from rekindle.errors import InputError

OPTIONS = {"rollout.max_tokens": 24, "rollout.prompts": 4, "descent.lr": 1e-3, "checkpoint.rollouts": 1}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A JSONL file of `rows`."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def steps_of(folder: Path) -> list[dict[str, Any]]:
    """The step records of a run."""
    records = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == "step"]


def test_demonstrations_are_learned_without_a_sample(tmp_path: Path) -> None:
    rows = [{"prompt": f"{a}+1", "demonstration": f"{a}+1={a + 1}"} for a in range(6)]
    out = train("sft", data=written(tmp_path / "d.jsonl", rows), steps=4, out=tmp_path / "run", options=OPTIONS)
    found = steps_of(out)
    assert [step["responses"] for step in found] == [0.0] * 4 and all(step["signal"] == 1.0 for step in found)
    assert found[-1]["nll"] < found[0]["nll"] and "entropy" not in found[0] and found[0]["data/score"] == 1.0
    assert sorted(p.name for p in (out / "rollouts").iterdir())[0] == "step-000001.parquet"


@pytest.mark.parametrize(
    ("text", "sentence"), [("7" * 40, "has 41 tokens, more than rollout.max_tokens"), (None, "needs a column")]
)
def test_rows_that_cannot_be_learned_are_told_before_the_first_step(
    text: str | None, sentence: str, tmp_path: Path
) -> None:
    rows = [{"prompt": "1+1", "demonstration": "2"}, {"prompt": "1+2", "demonstration": text}]
    data = written(tmp_path / "d.jsonl", rows)
    with pytest.raises(InputError, match=sentence):
        train("sft", data=data, steps=4, out=tmp_path / "run", options=OPTIONS)
    assert not (tmp_path / "run").exists()
