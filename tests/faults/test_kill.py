"""A few of the kills that `make faults` makes by the hundred, and that the comparison behind them sees a difference."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.faults.cuts import ENVIRONMENT, copied, whole
from tests.faults.same import differences

ROOT = Path(__file__).resolve().parent.parent.parent


def test_runs_that_are_killed_end_as_the_uninterrupted_one() -> None:
    command = [sys.executable, "-m", "tests.faults.kill", "--kills", "6", "--only", "grpo"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"grpo: 6 kills \(.*\), \d+ runs, all equal", done.stdout)


def test_the_comparison_sees_a_bit_of_a_weight_an_event_and_what_was_left(tmp_path: Path) -> None:
    reference = whole(tmp_path / "whole", options={"evaluate.every": 0, "checkpoint.best": None})
    assert differences(reference, copied(reference, tmp_path / "same")) == []
    other = copied(reference, tmp_path / "other")
    tensors = load_file(other / "final" / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] += 2**-10
    save_file(tensors, other / "final" / "model.safetensors")
    lines = (other / "events.jsonl").read_text().splitlines(keepends=True)
    (other / "events.jsonl").write_text("".join(lines[:-1]))
    (other / "rollouts" / "step-000002.parquet").unlink()
    (other / ".final.partial").mkdir()
    found = "; ".join(differences(reference, other))
    assert f"tensor model.safetensors:{name}" in found and "'end'" in found
    assert "rollouts/step-000002.parquet" in found and ".final.partial" in found
