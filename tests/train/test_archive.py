"""The archive gives back, bit for bit, what a step has observed: whatever was drawn, however wide its numbers."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from rekindle.errors import InputError
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.train.archive import read_rollouts, write_rollouts

EXAMPLES = {name: Example(name, f"prompt {name}", "1") for name in ("p", "q", "r")}
LENGTHS = [3, 1, 5, 2, 4, 5]


def drawn(dtype: torch.dtype = torch.float32, width: int = 6, first: int = 0, **changes: Any) -> Rollouts:
    """Six responses to three prompts; nothing is longer than 5, so that a width of 6 has padding throughout."""
    mask = torch.arange(width) < torch.tensor(LENGTHS)[:, None]
    made = torch.Generator().manual_seed(first)
    logp = (-torch.rand(mask.shape, generator=made, dtype=torch.float64).to(dtype)).where(mask, 0.0)
    entropy = torch.rand(mask.shape, generator=made, dtype=torch.float64).to(dtype).where(mask, 0.0)
    whole = Rollouts(
        example=[EXAMPLES[name] for name in "ppqqrr"],
        prompt=PromptRows(((5, 6), (5, 6), (7,), (7,), (8, 9, 10), (8, 9, 10))),
        ids=torch.randint(1, 40, mask.shape, generator=made).where(mask, 0),
        mask=mask,
        logp=logp,
        logp_sampled=logp,
        entropy=entropy,
        text=[f"text {i}" for i in range(6)],
        finish=["eos", "length", "stop", "eos", "eos", "demonstration"],
        group=torch.tensor([0, 0, 1, 1, 2, 2]) + first,
        uid=torch.arange(6) + 10 * first,
    )
    return replace(whole, **changes)


def judged(rollouts: Rollouts, **changes: Any) -> Verdicts:
    votes: dict[int, str | None] = {int(g): None if g % 2 else "7" for g in rollouts.group}
    verdicts = Verdicts.of(["1", None, "2", "1", "1", "3"], [True, False, None, True, False, True], votes)
    return replace(verdicts, score=torch.tensor([0.1, -1 / 3, 0.0, 1.0, 2.5, 1e-17], dtype=torch.float64), **changes)


def same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
        return mine.dtype == theirs.dtype and mine.equal(theirs)
    return mine == theirs


def told_apart(mine: Rollouts, theirs: Rollouts) -> list[str]:
    return [f.name for f in fields(Rollouts) if not same(getattr(mine, f.name), getattr(theirs, f.name))]


def kept(folder: Path, *rounds: Rollouts, **how: Any) -> list[tuple[Rollouts, Verdicts]]:
    return read_rollouts(write_rollouts(folder, 3, [(r, judged(r)) for r in rounds], **how), EXAMPLES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rounds_come_back_bit_for_bit_in_the_width_of_the_run(tmp_path: Path, dtype: torch.dtype) -> None:
    sampled = drawn(dtype, first=3, width=5)
    sampled = replace(sampled, logp_sampled=sampled.logp_sampled * 2)
    rounds = [drawn(dtype), sampled]
    again = kept(tmp_path, *rounds)
    for before, (after, verdicts) in zip(rounds, again, strict=True):
        assert told_apart(before, after) == []
        mine = judged(before)
        assert all(
            same(getattr(mine, n), getattr(verdicts, n)) for n in ("answer", "success", "graded", "score", "vote")
        )
    assert [len(r.ids[0]) for r, _ in again] == [6, 5]


def test_numbers_that_the_sampler_does_not_know_stay_unknown(tmp_path: Path) -> None:
    vllm = drawn(logp=None, entropy=None)
    written = drawn(first=3, logp=None, entropy=None, given=torch.tensor([1.0, 0, 0.5, 1, 0, 2], dtype=torch.float64))
    holes = drawn(first=6)
    holes = replace(holes, mask=holes.mask & (torch.arange(6) != 1))
    for rounds in ([vllm], [written], [vllm, drawn(first=3)], [holes, vllm]):
        again = kept(tmp_path, *rounds)
        assert [told_apart(a, b) for a, (b, _) in zip(rounds, again, strict=True)] == [[]] * len(rounds)


def test_columns_are_plain_lists_and_say_which_rows_were_trained(tmp_path: Path) -> None:
    place = write_rollouts(tmp_path, 3, [(drawn(), judged(drawn()))], torch.tensor([0, 1, 99, 5]))
    table = pq.read_table(place).to_pydict()
    assert table["trained"] == [True, True, False, False, False, True] and table["round"] == [0] * 6
    assert [len(ids) for ids in table["token_ids"]] == LENGTHS == [len(row) for row in table["token_entropy"]]
    assert table["prompt_ids"][4] == [8, 9, 10]
    assert sum(table["token_logp"][2]) == pytest.approx(table["logp"][2])
    assert "token_logp_sampled" not in table and "token_mask" not in table


def test_what_is_left_out_or_lost_is_told_in_a_sentence(tmp_path: Path) -> None:
    rows = [(drawn(), judged(drawn()))]
    bare = write_rollouts(tmp_path / "bare", 1, rows, tokens=False)
    assert "token_ids" not in pq.read_table(bare).column_names
    with pytest.raises(InputError, match=r"step-000001\.parquet holds no tokens: .*checkpoint\.tokens"):
        read_rollouts(bare, EXAMPLES)
    place = write_rollouts(tmp_path, 1, rows)
    with pytest.raises(InputError, match="has the prompt 'r', which the data of the run lacks"):
        read_rollouts(place, {n: e for n, e in EXAMPLES.items() if n != "r"})
    place.write_bytes(place.read_bytes()[:100])
    with pytest.raises(InputError, match=r"cannot read the rollouts .*step-000001\.parquet"):
        read_rollouts(place, EXAMPLES)
