"""What a response taught is written down as the update had it: advantages, ratios, marked tokens, the clip's bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from rekindle.api import train
from rekindle.core.types import Now
from rekindle.report.recording import read_run
from rekindle.train.credits import BOUNDS, Credits
from tests.batches import make_batch

SMALL: dict[str, Any] = {"rollout.prompts": 4, "rollout.group": 8, "rollout.votes": 8, "checkpoint.every": 0}


def ran(out: Path, method: str, **options: Any) -> Path:
    return train(method, task="digit_sum", steps=2, out=out, options={**SMALL, **options})


def test_the_rows_of_every_update_are_there_the_last_one_counting() -> None:
    batch = make_batch()
    batch = batch.with_columns(
        advantage=torch.ones(batch.mask.shape).double(), logp_old=torch.zeros(batch.mask.shape).double()
    )
    credits = Credits()
    for move in (0.1, 0.2):
        logp = torch.full(batch.mask.shape, move).double().where(batch.mask, 0.0)
        credits.add(batch, Now(logp=logp, entropy=logp))
    assert sorted(credits.rows) == sorted(batch.uid.tolist())
    for i, uid in enumerate(batch.uid.tolist()):
        row, live = credits.rows[uid], batch.mask[i]
        size = int(live.nonzero().max()) + 1 if live.any() else 0
        assert len(row["ratio"]) == len(row["advantage"]) == size
        assert torch.allclose(row["ratio"][row["mask"]].double(), torch.tensor(0.2).exp().double())


def test_what_a_checkpoint_holds_gives_them_back() -> None:
    credits = Credits(
        {7: {"ratio": torch.tensor([1.0, 2.0]), "mask": torch.tensor([True, True])}, 3: {"ratio": torch.ones(1)}}
    )
    again = Credits.of(credits.tensors())
    assert again.rows.keys() == credits.rows.keys()
    assert all(again.rows[u][n].equal(v) for u, row in credits.rows.items() for n, v in row.items())


def test_a_run_writes_group_advantages_and_the_bounds_of_its_clip(tmp_path: Path) -> None:
    out = ran(tmp_path / "run", "grpo")
    table = pq.read_table(out / "credits" / "step-000002.parquet")
    assert table.schema.metadata[BOUNDS] == b"0.8 1.2"
    assert "token_advantage" not in table.column_names and "token_mark" not in table.column_names
    rollouts = pq.read_table(out / "rollouts" / "step-000002.parquet").to_pylist()
    advantage = dict(zip(*(table.column(n).to_pylist() for n in ("uid", "advantage")), strict=True))
    assert advantage.keys() == {row["uid"] for row in rollouts}
    for group in {row["group"] for row in rollouts}:
        own = [row for row in rollouts if row["group"] == group]
        score = torch.tensor([row["score"] for row in own], dtype=torch.float64)
        wanted = (score - score.mean()) / (score.std() + 1e-6) if score.max() > score.min() else score * 0
        assert torch.allclose(torch.tensor([advantage[row["uid"]] for row in own]).double(), wanted, atol=1e-5)


def test_ratios_are_those_of_the_second_update_and_left_out_where_there_is_one(tmp_path: Path) -> None:
    once = ran(tmp_path / "once", "grpo", **{"descent.minibatches": 1})
    assert "token_ratio" not in pq.read_table(once / "credits" / "step-000001.parquet").column_names
    twice = ran(tmp_path / "twice", "grpo", **{"descent.minibatches": 1, "descent.epochs": 2, "descent.lr": 1e-3})
    rows = read_run(twice).table(1).to_pylist()
    moved = [r for row in rows for r in row["token_ratio"]]
    assert min(moved) < 0.99 < 1.01 < max(moved)
    assert all(len(row["token_ratio"]) == len(row["token_ids"]) == len(row["token_text"]) for row in rows)


def test_a_rollout_file_and_its_credits_are_one_table_with_the_tokens_as_text(tmp_path: Path) -> None:
    run = read_run(ran(tmp_path / "run", "echo_rl"))
    table = run.table(run.kept[-1])
    rows = table.to_pylist()
    assert table.schema.metadata[BOUNDS]
    assert all("".join(row["token_text"]).startswith(row["response"]) for row in rows)
    marked = [row for row in rows if any(row["token_mark"] or [])]
    assert marked and all(row["success"] for row in marked)
    for row in marked:  # a clip goes from the first token to the end of a step
        on = row["token_mark"]
        assert on == sorted(on, reverse=True)
    groups = [row["group"] for row in marked]
    assert len(groups) == len(set(groups))


@pytest.mark.parametrize("method", ["evol_rl", "dapo"])
def test_rows_that_were_not_trained_on_have_no_advantage(tmp_path: Path, method: str) -> None:
    run = read_run(ran(tmp_path / method, method, **{"rollout.votes": 16}))
    rows = [row for step in run.kept for row in run.table(step).to_pylist()]
    assert {row["trained"] for row in rows} >= {True}
    assert all((row["advantage"] is not None) == row["trained"] for row in rows)


def test_a_clip_of_whole_responses_has_no_bounds_for_tokens(tmp_path: Path) -> None:
    out = ran(tmp_path / "gspo", "gspo")
    table = pq.read_table(out / "credits" / "step-000001.parquet")
    assert "advantage" in table.column_names and BOUNDS not in (table.schema.metadata or {})


def test_steps_without_rollouts_have_no_credits(tmp_path: Path) -> None:
    out = ran(tmp_path / "run", "grpo", **{"checkpoint.rollouts": 2})
    assert [place.name for place in (out / "credits").iterdir()] == ["step-000002.parquet"]
