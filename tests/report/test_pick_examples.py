"""Prompts ranked by historical variance: the source's numbers, ties, and where the history is read from."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rekindle.errors import InputError
from rekindle.report.examples import flat, rank, read_history, variance

LEARNT = [0.0, 0.0, 0.125, 0.5, 0.875, 1.0, 1.0, 1.0]
NOISY = [0.0, 0.25, 0.125, 0.0, 0.25, 0.125, 0.0, 0.125]


def test_the_worked_numbers() -> None:
    assert variance(LEARNT) == pytest.approx(0.1875) and variance(NOISY) == pytest.approx(0.00952, abs=5e-6)
    (best, second, last) = rank({"noisy": NOISY, "solved": [1.0, 1.0], "learnt": LEARNT})
    assert (best.id, second.id, last.id) == ("learnt", "noisy", "solved")
    assert best.deviation == pytest.approx(0.4330, abs=5e-5) and best.mean == 0.5625 and best.visits == 8
    assert last.variance == 0


def test_time_reversal_changes_nothing() -> None:
    assert variance(LEARNT[::-1]) == variance(LEARNT)


def test_a_constant_history_scores_exactly_zero() -> None:
    assert variance([0.1] * 7) == 0 and variance([0.3]) == 0


def test_ties_keep_their_order_and_are_counted() -> None:
    ranked = rank({"b": [0.0], "a": [1.0, 1.0], "x": [0.5, 0.25], "c": [0.0, 0.0], "unseen": []})
    assert [r.id for r in ranked] == ["x", "b", "a", "c"]
    same = flat(ranked)
    assert (same.prompts, same.never, same.always, same.once) == (3, 2, 1, 1)


def write_rollouts(folder: Path, step: int, rows: list[tuple[str, int, bool, bool]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names, groups, success, graded = zip(*rows, strict=True)
    table = pa.table({"id": names, "group": groups, "success": success, "graded": graded})
    pq.write_table(table, folder / f"step-{step:06d}.parquet")


def write_state(run: Path, step: int, memory: dict) -> None:
    state = run / "checkpoints" / f"step-{step:06d}" / "state"
    state.mkdir(parents=True)
    (state / "run.json").write_text(json.dumps({"step": step, "memory": memory}))


def test_the_newest_checkpoint_comes_first(tmp_path: Path) -> None:
    write_state(tmp_path, 999999, {"history": {"a": [0.0]}})
    write_state(tmp_path, 1000000, {"history": {"a": [0.0, 1.0]}})
    write_rollouts(tmp_path / "rollouts", 1, [("b", 0, True, True)])
    read = read_history(tmp_path)
    assert read.history == {"a": [0.0, 1.0]} and read.source == "the checkpoint step-1000000"


def test_rollouts_where_no_checkpoint_has_a_history(tmp_path: Path) -> None:
    write_state(tmp_path, 2, {"prompts": 4})
    rows = [("a", 0, True, True), ("a", 0, False, True), ("b", 1, False, False), ("a", 2, True, True)]
    write_rollouts(tmp_path / "rollouts", 1, rows)
    write_rollouts(tmp_path / "rollouts", 2, [("a", 3, False, True), ("b", 4, True, True), ("b", 4, True, False)])
    read = read_history(tmp_path)
    assert read.history == {"a": [0.5, 1.0, 0.0], "b": [1.0]}, "copies of a prompt in a step are visits of their own"
    assert read.source == "the rollouts of 2 steps"


def test_no_history_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a checkpoint nor kept rollouts"):
        read_history(tmp_path)
    with pytest.raises(InputError, match="no run folder"):
        read_history(tmp_path / "nowhere")
