"""Rows and metrics of a step from made micro-batches, and what a recorder refuses before anything is trained."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from rekindle.errors import InputError
from rekindle.interop.trl import RekindleRecorder
from rekindle.interop.trl.needed import HOOKS, refuse_stranger
from rekindle.interop.trl.rows import Piece, Row, metrics_of, prompt_name, table_of
from rekindle.interop.trl.write import next_numbers, write_table

ROW = Row(
    id="p",
    prompt="ab",
    response="cd",
    ids=[5, 6],
    prompt_ids=[3, 4],
    score=1.0,
    graded=True,
    success=True,
    finish="eos",
    group=0,
    rewards={"right": 1.0},
)
ROWS = {
    0: ROW,
    1: replace(ROW, ids=[7], response="e", score=0.0, success=False, rewards={"right": 0.0}),
    2: replace(ROW, ids=[5, 6, 7], group=1, finish="length"),
    3: replace(ROW, ids=[8, 8], group=1),
}


def piece(uid: list[int], loss: float = 0.5, **columns: Any) -> Piece:
    width = max(len(ROWS[u].ids) for u in uid)
    mask = torch.tensor([[n < len(ROWS[u].ids) for n in range(width)] for u in uid])
    own = {
        "logp": torch.full(mask.shape, -0.5),
        "entropy": torch.full(mask.shape, 0.25),
        "advantage": torch.ones(len(uid)),
    }
    return Piece(uid=uid, mask=mask, columns={**own, **columns}, loss=loss)


def letters(ids: Any) -> list[str]:
    return [chr(ord("a") + i - 3) for i in ids]


def table(*pieces: Piece, **more: Any) -> list[dict[str, Any]]:
    return table_of(ROWS, pieces, letters, **more).to_pylist()


def test_rows_come_with_their_tokens_and_columns_whatever_the_widths_of_the_pieces() -> None:
    rows = table(piece([3, 1]), piece([0, 2], logp=torch.full((2, 3), -2.0)))
    assert [row["uid"] for row in rows] == [3, 1, 0, 2] and [row["group"] for row in rows] == [1, 0, 0, 1]
    assert [row["token_ids"] for row in rows] == [[8, 8], [7], [5, 6], [5, 6, 7]]
    assert [row["token_text"] for row in rows] == [["f", "f"], ["e"], ["c", "d"], ["c", "d", "e"]]
    assert [row["token_logp"] for row in rows] == [[-0.5] * 2, [-0.5], [-2.0] * 2, [-2.0] * 3]
    assert [row["logp"] for row in rows] == [-1.0, -0.5, -4.0, -6.0] and {row["entropy"] for row in rows} == {0.25}
    assert [row["token_ratio"] for row in rows] == [[1.0] * 2, [1.0], [1.0] * 2, [1.0] * 3]
    assert [row["reward/right"] for row in rows] == [1.0, 0.0, 1.0, 1.0]
    assert rows[0]["prompt_ids"] == [3, 4] and rows[0]["id"] == "p" and all(row["trained"] for row in rows)
    assert {row["advantage"] for row in rows} == {1.0} and "token_advantage" not in rows[0]


def test_a_rows_own_advantages_and_ratios_are_kept_token_by_token() -> None:
    advantage = torch.tensor([[1.0, -0.5], [2.0, 9.0]])
    rows = table(piece([0, 1], advantage=advantage, logp_old=torch.tensor([[-1.0, -0.5], [-0.5, -7.0]])))
    assert [row["advantage"] for row in rows] == [0.25, 2.0]
    assert rows[0]["token_advantage"] == [1.0, -0.5] and rows[1]["token_advantage"] == [2.0]
    assert rows[0]["token_ratio"] == pytest.approx([math.exp(0.5), 1.0]) and rows[1]["token_ratio"] == [1.0]


def test_what_the_sampler_said_is_kept_where_every_piece_has_it_and_it_differs() -> None:
    other = {"logp_sampled": torch.tensor([[-0.25, -0.75], [-0.5, -9.0]])}
    rows = table(piece([0, 1], **other))
    assert [row["token_logp_sampled"] for row in rows] == [[-0.25, -0.75], [-0.5]]
    assert [row["token_logp"] for row in rows] == [[-0.5, -0.5], [-0.5]]
    for same in ((piece([0, 1]),), (piece([0, 1], **other), piece([2, 3]))):
        assert "token_logp_sampled" not in table(*same)[0]
    assert "token_logp_sampled" not in table(piece([0, 1], logp_sampled=torch.full((2, 2), -0.5)))[0]


def test_a_row_that_is_masked_was_not_trained_on() -> None:
    made = piece([0, 1])
    masked = replace(made, mask=made.mask & torch.tensor([[True], [False]]))
    rows = table(masked)
    assert [row["trained"] for row in rows] == [True, False] and rows[1]["token_ids"] == [7]
    assert [row["tokens"] for row in rows] == [2, 0]


def test_metrics_are_counted_from_the_rows() -> None:
    old = torch.tensor([[-1.0, -0.5], [-0.2, 0.0]])
    pieces = (piece([0, 1], 0.25, advantage=torch.tensor([1.0, -1.0]), logp_old=old, logp_ref=old), piece([2, 3], 0.5))
    whole = replace(pieces[1], columns={**pieces[1].columns, "logp_old": torch.full((2, 3), -0.5)})
    found = metrics_of(ROWS, (pieces[0], whole), (0.8, 1.2))
    assert found["loss"] == 0.75 and found["length"] == 2.0 and found["truncated"] == 0.25
    assert found["success"] == 0.75 and found["score"] == 0.75 and found["entropy"] == 0.25
    assert found["groups/dead"] == 0.5 and found["groups/all_right"] == 0.5
    assert found["clip_high"] == 1 / 8, "e^0.5 on one of eight tokens"
    assert found["clip_low"] == 1 / 8, "e^-0.3, with an advantage below 0"
    assert "kl_ref" not in found, "the second piece has no reference"
    x = torch.tensor([-0.5, 0.0, 0.3])
    want = (x.exp() - x - 1).sum().item() / 3
    assert metrics_of(ROWS, pieces[:1], None)["kl_ref"] == pytest.approx(want)
    assert "clip_low" not in metrics_of(ROWS, pieces[:1], None)


def test_bounds_and_facts_are_in_the_file_and_numbers_go_on(tmp_path: Path) -> None:
    for step, uids in ((1, [0, 1]), (2, [2, 3])):
        write_table(tmp_path / f"step-{step:06d}.parquet", table_of(ROWS, [piece(uids)], letters, (0.8, 1.28)))
    assert pq.read_schema(tmp_path / "step-000001.parquet").metadata[b"rekindle.clip"] == b"0.8 1.28"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001.parquet", "step-000002.parquet"]
    assert next_numbers(tmp_path, 1) == (2, 1) and next_numbers(tmp_path, 2) == (4, 2)
    assert next_numbers(tmp_path / "none", 5) == (0, 0)


def test_a_prompt_without_an_id_is_named_by_its_text() -> None:
    assert prompt_name("a") == prompt_name("a") != prompt_name("b") and len(prompt_name("\ud800")) == 12


# --- what is refused ---


def stand_in(processes: int = 1) -> Any:
    """An object with the hooks of a trainer."""
    kind = type("GRPOTrainer", (), {name: lambda self: None for name in (*HOOKS, "add_callback")})
    made: Any = kind()
    made.accelerator, made.add_callback = SimpleNamespace(num_processes=processes), lambda callback: None
    return made


def test_a_trainer_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SimpleNamespace has no _generate_and_score_completions"):
        RekindleRecorder(tmp_path).attach(SimpleNamespace())
    refuse_stranger(type(stand_in()))


def test_several_processes_and_a_second_trainer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 processes share this run"):
        RekindleRecorder(tmp_path).attach(stand_in(2))
    recorder = RekindleRecorder(tmp_path).attach(stand_in())
    with pytest.raises(InputError, match="is attached already"):
        recorder.attach(stand_in())
