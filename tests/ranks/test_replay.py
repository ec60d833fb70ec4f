"""Steps of several ranks are taken again by as many, bit for bit, and by one to rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SETS = ("rollout.prompts=6", "rollout.group=4", "rollout.votes=8", "rollout.block=2", "rollout.max_tokens=8")
SETS += ("descent.micro_batch=3", "evaluate.baseline=false", "checkpoint.every=2")


def rekindle(*words: str | Path) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command in processes of one thread each."""
    told = {n: v for n, v in os.environ.items() if n not in ("RANK", "WORLD_SIZE")} | {"OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "rekindle", *map(str, words)]
    done = subprocess.run(call, env=told, capture_output=True, text=True, timeout=600, check=False)
    return done.returncode, done.stdout, done.stderr


def told(*words: str | Path) -> tuple[int, dict[str, Any]]:
    code, out, err = rekindle("replay", *words, "--json")
    assert out, err
    return code, json.loads(out)


@pytest.mark.heavy
@pytest.mark.parametrize("shard", ["none", "full"])
def test_two_ranks_are_replayed_by_two_and_by_one(tmp_path: Path, shard: str) -> None:
    run = tmp_path / "run"
    sets = [word for text in SETS for word in ("--set", text)]
    code, _, err = rekindle(
        *("train", "evol_rl", "--task", "digit_sum", "--steps", "4", *sets, "--ranks", "2", "--shard", shard),
        *("--out", run),
    )
    assert code == 0, err
    for step in ("2", "4"):
        code, found = told(run, "--step", step)
        assert code == 0 and found["equal"] and found["exact"] and found["notes"] == []
        assert all(one["tensors"] == 13 and one["far"] == 0 for one in found["steps"])
        code, alone = told(run, "--step", step, "--ranks", "1")
        assert code == 0 and alone["equal"] and not alone["exact"] and "another order" in alone["notes"][0]
        assert alone["steps"][-1]["apart"] < 1e-5 and alone["steps"][-1]["tensors"] == 0
    events = run / "events.jsonl"
    events.write_text(events.read_text().replace('"grad_norm": ', '"grad_norm": 1'))
    code, found = told(run, "--step", "3")
    assert code == 1 and found["first"]["what"] == "metrics", "the exit code is that of the first rank"
