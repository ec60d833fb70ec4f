"""What grades: the options where they say so, else the data's layout, else the task itself."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from rekindle.errors import InputError
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.tasks import load_task
from rekindle.tokens.tasks.files import load_files
from rekindle.tokens.verify import Verifier
from rekindle.train.archive import write_rollouts
from rekindle.train.graded import profile_grading, task_grader
from rekindle.train.sections import Grading


def rollouts(texts: list[str], answer: str) -> Rollouts:
    count = len(texts)
    ones = torch.ones(count, 1)
    return Rollouts(
        example=[Example("a", "what", answer)] * count,
        prompt=PromptRows(((1,),) * count),
        ids=ones.long(),
        mask=ones.bool(),
        logp=-ones,
        logp_sampled=-ones,
        entropy=ones,
        text=texts,
        finish=["eos"] * count,
        group=torch.zeros(count, dtype=torch.int64),
        uid=torch.arange(count),
    )


def write(path: Path, **row: object) -> Path:
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return path


def test_the_layout_of_the_data_says_how_it_is_graded(tmp_path: Path) -> None:
    plain = load_files(write(tmp_path / "plain.jsonl", prompt="1+1", answer="2"))
    math = load_files(write(tmp_path / "math.jsonl", problem="x", solution="so $\\boxed{2}$", answer="2"))
    assert profile_grading(plain) == Grading()
    assert profile_grading(math).by == "math"
    assert profile_grading(math, by="exact").by == "exact", "what is asked for goes first"


def test_a_task_that_grades_itself_is_left_to_it() -> None:
    task = load_task("reduce")
    assert task_grader(Grading(), task) is None
    with pytest.raises(InputError, match=r"grading.by=math.*task reduce grades itself"):
        task_grader(Grading(by="math"), task)


def test_an_unknown_way_is_named_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match=r"'grading\.by' is one of 'exact', 'math'"):
        profile_grading(load_task("reduce"), by="maths")


def test_math_holds_equal_what_text_does_not(tmp_path: Path) -> None:
    task = load_files(write(tmp_path / "rows.jsonl", prompt="root of 8", answer="2\\sqrt{2}"))
    drawn = rollouts(["\\boxed{\\sqrt{8}}", "\\boxed{3}", "none"], "2\\sqrt{2}")
    assert [grade.success for grade in Verifier(task).grades(drawn)] == [False, False, False]
    with closing(Verifier(task, grader=task_grader(Grading(by="math"), task))) as verifier:
        assert [grade.success for grade in verifier.grades(drawn)] == [True, False, False]


def test_what_rewards_log_is_kept_with_the_rollouts(tmp_path: Path) -> None:
    drawn = rollouts(["a", "b"], "1")
    plain = Verdicts.of(["1", "2"], [True, False], {})
    told = replace(plain, extra={"reward/f.py:f": [1.0, None], "reward/f.py:f/kind": ["long", 3]})
    assert told.take(torch.tensor([1])).extra == {"reward/f.py:f": [None], "reward/f.py:f/kind": [3]}
    place = write_rollouts(tmp_path, 1, [(drawn, told), (drawn, plain)])
    table = pq.read_table(place).to_pydict()
    assert table["reward/f.py:f"] == [1.0, None, None, None], "a round that logged nothing has no value"
    assert table["reward/f.py:f/kind"] == ["long", "3", None, None], "one kind a column"
    assert table["success"] == [True, False, True, False]
