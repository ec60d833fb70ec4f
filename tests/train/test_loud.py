"""A level is told once an episode; what is compared, summed and counted for it, on small numbers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rekindle.core.types import Batch
from rekindle.tokens.collect import to_batch
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.train.events import NoLog
from rekindle.train.firstlook import contradicting, one_answer
from rekindle.train.guards import column_hole, hole, misshapen, twins
from rekindle.train.levels import equal_groups
from rekindle.train.loud import Level, raise_level, raised, sentence, warn
from rekindle.train.matching import Said, gaps
from rekindle.train.moved import mark

WIDE = ("ids", "mask", "logp", "logp_sampled")


def rollouts(ids: list[list[int]], group: list[int], **more: Any) -> Rollouts:
    """Rows of these tokens, 0 ends them; log-probs are -1 a token."""
    made = torch.tensor(ids)
    rows = len(ids)
    values = {
        "example": [Example(f"p{g}", f"p{g}") for g in group],
        "prompt": PromptRows(tuple((g,) for g in group)),
        "ids": made,
        "mask": made != 0,
        "logp": torch.full(made.shape, -1.0),
        "logp_sampled": torch.full(made.shape, -1.0),
        "entropy": None,
        "text": ["x"] * rows,
        "finish": ["eos"] * rows,
        "group": torch.tensor(group),
        "uid": torch.arange(rows),
    }
    return Rollouts(**{**values, **more})


def batch(seen: Rollouts) -> Batch:
    """Its batch, every row graded."""
    rows = len(seen)
    return to_batch(seen, Verdicts.of([None] * rows, [True] * rows, {}), torch.tensor(0))


def a_run(**memory: Any) -> Any:
    """As much of a run as a warning needs."""
    return SimpleNamespace(watched=dict(memory), step_index=7, last_rollouts=[])


def test_a_level_is_told_once_and_again_after_it_has_fallen() -> None:
    run, told = a_run(), []
    for value in (0.4, 0.6, 0.9, 0.45, 0.6, 0.3, 0.6):  # 0.45 is below the limit, but not below four fifths of it
        warn(run, [Level("cut", value, 0.5, {"share": value}, "cut less")], NoLog(), told.append)
    events = [record for record in told if record["kind"] == "warning"]
    assert [record["numbers"]["share"] for record in events] == [0.6, 0.6] and {r["step"] for r in events} == {7}
    notes = [record["text"] for record in told if record["kind"] == "note"]
    assert notes == ["warning: cut (share 0.6): cut less"] * 2


def test_what_is_not_measured_stays_as_it_was_and_a_run_without_warnings_remembers_none() -> None:
    run = a_run(warned=["cut"])
    warn(run, [Level("other", 0, 1, {}, "nothing")], NoLog(), lambda record: None)
    assert run.watched == {"warned": ["cut"]}
    quiet = a_run()
    warn(quiet, [Level("other", 0, 1, {}, "nothing")], NoLog(), lambda record: None)
    assert quiet.watched == {}


def test_levels_wait_in_the_memory_for_the_end_of_the_step() -> None:
    run, level = a_run(), Level("cut", 0.7, 0.5, {"share": 0.7}, "cut less")
    assert raised(run) is None
    raise_level(run, level)
    assert raised(run) == [level] and run.watched == {} and "0.7" in sentence(level)


def test_equal_responses_count_in_groups_of_four_and_padding_does_not() -> None:
    same, other = [5, 6, 0], [5, 7, 0]
    ids, group = [same] * 4 + [same, same, same, other] + [same] * 2, [1] * 4 + [0] * 4 + [2] * 2
    assert equal_groups(rollouts(ids, group)) == [False, True]
    padded = rollouts(ids, group)
    padded.ids[0, 2] = 9  # off the mask
    assert equal_groups(replace(padded, mask=rollouts(ids, group).mask)) == [False, True]
    assert equal_groups(rollouts([same] * 4, [0] * 4, finish=["demonstration"] * 4)) == []


def test_log_probs_are_compared_token_for_token_and_only_where_the_rows_are_the_same() -> None:
    seen = rollouts([[5, 6, 0], [5, 7, 8], [4, 0, 0]], [0, 0, 1])
    part = batch(seen).take(torch.tensor([2, 1]))
    logp = torch.tensor([[-1.5, 9.0, 9.0], [-1.0, -1.0, -1.25]])
    assert compared(part, logp, seen) == [0.5, 0.0, 0.0, 0.25]
    changed = replace(part, action=part.action + 1)
    assert compared(changed, logp, seen) == []
    wider = replace(seen, **{n: torch.nn.functional.pad(getattr(seen, n), (0, 2)) for n in WIDE})
    assert sorted(compared(part, logp, wider)) == [0.0, 0.0, 0.25, 0.5]
    shown = replace(seen, finish=["eos", "demonstration", "eos"])
    assert compared(part, logp, shown) == [0.5], "nobody drew the other"
    for unknown in (replace(seen, logp=None), replace(seen, extra={"soft": logp}), replace(seen, given=torch.ones(3))):
        assert Said.of(unknown) is None


def compared(part: Batch, logp: torch.Tensor, seen: Rollouts) -> list[float]:
    there = Said.of(seen)
    assert there is not None
    return gaps(part, logp, there).tolist()


def test_holes_are_counted_where_rows_live() -> None:
    one = batch(rollouts([[5, 6, 0], [5, 7, 8], [4, 0, 0]], [0, 0, 1]))
    bad = torch.zeros(3, 3)
    bad[0, 2] = bad[2, 1] = torch.nan  # off the mask
    assert hole("x", bad, one) is None
    bad[1, 1:] = -torch.inf
    found = hole("x", bad, one)
    assert found is not None and (found.count, found.of, found.unit, found.rows) == (2, 6, "tokens", (1,))
    score = torch.tensor([0.0, 0.0, torch.inf], dtype=torch.float64)
    told = column_hole(replace(one, score=score), ["advantage", "score"])
    assert told is not None and (told.what, told.count, told.of, told.unit) == ("score", 1, 3, "rows")
    dead = replace(one, score=score, graded=torch.tensor([True, True, False]))
    assert column_hole(dead, ["score"]) is None
    wide = torch.zeros(3, 3, 2).index_put((torch.tensor(1), torch.tensor(0), torch.tensor(1)), torch.tensor(torch.nan))
    seen = hole("wide", wide, one)
    assert seen is not None and (seen.count, seen.rows) == (1, (1,))


def test_rows_and_columns_that_do_not_fit_are_named() -> None:
    one = batch(rollouts([[5, 6], [5, 7]], [0, 0]))
    assert [*misshapen(one), *twins(a_run(), one)] == []
    short = one.with_columns(limit=torch.zeros(1), logp_old=torch.zeros(2, 1))
    assert list(misshapen(short)) == [
        "column 'limit' has 1 rows, the batch 2",
        "column 'logp_old' is of shape (2, 1), not (2, 2)",
    ]
    mixed = replace(one, prompt=PromptRows(((1,), (2,))), uid=torch.tensor([3, 3]))
    uid, group = twins(a_run(), mixed)
    assert uid.startswith("uid 3 stands more than once") and group.startswith(
        "group 0 holds rows of 2 different prompts"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [0, 1, 3, 8])
def test_any_bit_changes_a_mark(dtype: torch.dtype, size: int) -> None:
    value = torch.randn(size).to(dtype)
    before = int(mark(value))
    for i in range(size):
        kept = value[i].clone()
        value[i] = -kept
        assert int(mark(value)) != before
        value[i] = kept
    assert int(mark(value)) == before


def test_data_that_contradicts_itself_or_has_one_answer() -> None:
    pairs = [("a", "1+1", "2"), ("b", "1+1", "3"), ("c", "2", "2"), ("d", "2", "2"), ("e", "1+1", None)]
    examples = [Example(i, prompt, answer) for i, prompt, answer in pairs]
    level = contradicting(examples)
    assert level.value == 1 and level.numbers["first"] == "a (2) and b (3)"
    alike = [Example(str(i), str(i), "7") for i in range(8)]
    assert one_answer(alike).value == 1.0 and one_answer(alike[:7]).value == 0.0
    assert one_answer([*alike, Example("x", "x", "8")]).value == 0.0
