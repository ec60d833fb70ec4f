"""Runs of A-LoL on a data file: the value head is fitted once, kept, and found again after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from rekindle.api import train
from rekindle.errors import InputError
from tests.methods.resumed import assert_alike, memory

OPTIONS: dict[str, Any] = {
    "rollout.max_tokens": 12,
    "rollout.prompts": 4,
    "descent.lr": 1e-3,
    "checkpoint.every": 1,
    "checkpoint.keep": 9,
    "collect.prompts.baseline.epochs": 2,
}


def data(path: Path, **more: Any) -> Path:
    """Scored responses to a few sums, a row each."""
    rows = [
        {"prompt": f"{a}+1=", "completion": text, "reward": reward, **more}
        for a in range(6)
        for text, reward in ((str(a + 1), 1), (str(a + 2), 0))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def held(path: Path) -> Path:
    """Prompts with answers."""
    path.write_text("".join(json.dumps({"prompt": f"{a}+2=", "answer": str(a + 2)}) + "\n" for a in range(5)))
    return path


def test_a_killed_run_resumes_with_the_head_and_the_values_that_it_had(tmp_path: Path) -> None:
    said = {**OPTIONS, "data_heldout": str(held(tmp_path / "held.jsonl"))}
    source, whole, cut = data(tmp_path / "d.jsonl"), tmp_path / "whole", tmp_path / "cut"
    train("a_lol", data=source, steps=3, out=whole, options=said)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "final")
    for step in (2, 3):
        shutil.rmtree(cut / "checkpoints" / f"step-{step:06d}")
    train("a_lol", data=source, steps=3, out=cut, options=said, resume=True)
    assert_alike(whole, cut, step=3)
    first, last = (load_file(whole / "checkpoints" / f"step-{n:06d}" / "state" / "kept.safetensors") for n in (1, 3))
    assert any(name.startswith("value.") for name in first) and first.keys() == last.keys()
    assert all((first[name] == last[name]).all() for name in first), "fitted once"
    assert len(memory(whole, 3)["values"]) == 6 and all(0 < v < 1 for v in memory(whole, 3)["values"].values())


def test_the_responses_own_mean_needs_no_answers(tmp_path: Path) -> None:
    options = {n: v for n, v in OPTIONS.items() if "epochs" not in n} | {"collect.prompts.baseline": "group_mean"}
    out = train("a_lol", data=data(tmp_path / "d.jsonl"), steps=2, out=tmp_path / "run", options=options)
    assert set(memory(out, 2)["values"].values()) == {0.5}
    records = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "step"]
    assert [step["data/score"] for step in steps] == [0.5, 0.5] and all(step["signal"] == 1.0 for step in steps)
    assert steps[0]["weight"] == pytest.approx(1.0) and steps[0]["responses"] == 0.0


def test_a_value_head_without_answers_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="no prompt has an answer to score by: name rows of prompt and answer by data_h"
    ):
        train("a_lol", data=data(tmp_path / "d.jsonl"), steps=1, out=tmp_path / "run", options=OPTIONS)
    assert not (tmp_path / "run").exists()
