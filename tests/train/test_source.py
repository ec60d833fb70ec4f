"""What the user says of data reaches the task, what is read is remembered, and streamed data trains like whole data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from rekindle.errors import InputError
from rekindle.tokens.tasks.files import FileTask, Reading
from rekindle.tokens.tasks.lazy import LineRows, Streamed
from rekindle.tokens.tasks.reasoning_gym import ReasoningGym
from rekindle.train.build import make_run
from rekindle.train.chosen import chosen
from rekindle.train.settings import RunConfig
from rekindle.train.source import data_inputs, said_reading, source_task
from rekindle.train.start import Asked, inputs, launch, prepare

ANY = {"rollout.prompts": 2, "rollout.group": 2, "steps": 2, "rollout.max_tokens": 4, "device": "cpu"}


def write(path: Path, count: int, **more: Any) -> Path:
    rows = [{"prompt": f"reduce {i % 10}{i // 10}+3", "answer": str(i), **more} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_options_of_data_are_known_before_the_run_is_resolved(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "a", "target": "1"}\n{"q": "b", "target": "2"}\n')
    task = source_task({"data": str(path)}, ("data_prompt=q", "streaming=true"), {"data_answer": "target"})
    assert isinstance(task, FileTask)
    rows = task.split("train")
    assert isinstance(rows, Streamed) and [(row.prompt, row.answer) for row in rows] == [("a", "1"), ("b", "2")]
    held = tmp_path / "b.jsonl"
    held.write_bytes(path.read_bytes())
    task = source_task(None, ("data_layout=trl", "data_prompt=q"), {"data": str(path), "data_heldout": str(held)})
    assert [row.answer for row in task.split("heldout")] == [None, None], "no answer column was named"


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (("data_prompt=5",), "data_prompt is 5, which is no text: write it in quotes"),
        (("streaming=7",), "streaming is 7: set it to true or false"),
        (("data_layout=gsm9k",), "unknown data_layout 'gsm9k': did you mean 'gsm8k'"),
    ],
)
def test_values_of_another_kind_are_refused(tmp_path: Path, sets: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError) as caught:
        source_task(None, sets, {"data": str(write(tmp_path / "a.jsonl", 2))})
    assert words in str(caught.value)


def test_how_data_is_read_has_the_options_and_their_defaults() -> None:
    plain = said_reading(None, (), {})
    assert (plain.layout, plain.split, plain.streaming, plain.rewarded, plain.by) == (
        "auto",
        "train",
        False,
        False,
        None,
    )
    said = said_reading(
        {"reward": ["f.py:f"], "grading": {"by": "json"}}, ("data_config=main",), {"data_split": "test"}
    )
    assert (said.config, said.split, said.rewarded, said.by) == ("main", "test", True, "json")


def test_the_layouts_options_are_the_tasks_profile(tmp_path: Path) -> None:
    row = {"problem": "p", "solution": r"\boxed{1}", "answer": "1"}
    (tmp_path / "math.jsonl").write_text(json.dumps(row) + "\n")
    resolved, _ = prepare(Asked("grpo", {**ANY, "data": str(tmp_path / "math.jsonl")}))
    assert resolved.config.grading.by == "math" and resolved.origin["grading.by"] == "profile"
    resolved, _ = prepare(Asked("grpo", {**ANY, "data": str(tmp_path / "math.jsonl"), "grading.by": "exact"}))
    assert resolved.config.grading.by == "exact" and resolved.origin["grading.by"] == "flag"


def test_what_is_read_is_remembered_by_its_contents(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    write(folder / "train.jsonl", 2)
    write(folder / "test.jsonl", 2)
    config = RunConfig(method="grpo", task=None, data=str(folder), data_heldout=f"{folder}:test")
    before = data_inputs(config)
    assert set(before) == {str(folder), f"{folder}:test"}
    write(folder / "test.jsonl", 3)
    assert all(data_inputs(config)[name] != digest for name, digest in before.items())
    resolved, _ = prepare(Asked("grpo", {**ANY, "data": str(folder), "data_heldout": f"{folder}:test"}))
    assert inputs(resolved) == data_inputs(config)
    assert data_inputs(RunConfig(method="grpo")) == {}


def weights(folder: Path) -> dict[str, Any]:
    return {name: value.tolist() for name, value in load_file(folder / "final" / "model.safetensors").items()}


def run(asked: dict[str, Any], out: Path, *, resume: bool = False, method: str = "ttrl") -> Path:
    resolved, task = prepare(Asked(method, {**ANY, **asked, "out": str(out), "rollout.votes": 4}))
    return launch(resolved, task, resume=resume, heard=lambda record: None).root


def test_a_streamed_run_is_the_run_of_the_whole_data_to_the_bit(tmp_path: Path) -> None:
    data = str(write(tmp_path / "a.jsonl", 40))
    few = {"data": data, "evaluate.prompts": 2, "evaluate.samples": 2}
    whole = weights(run(few, tmp_path / "whole"))
    assert weights(run({**few, "streaming": True}, tmp_path / "streamed")) == whole


def test_a_streamed_prompt_that_leaves_no_room_ends_the_run_where_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", 3)
    resolved, task = prepare(Asked("grpo", {**ANY, "data": str(path), "streaming": True}))
    made = make_run(resolved, task)
    assert isinstance(made.examples, Streamed) and len(made.examples.checks) == 1
    with path.open("a") as more:
        more.write(json.dumps({"prompt": "1" * 253}) + "\n")
    rows = LineRows(path)  # through no call whose types are sampled: that would read the row
    streamed = Streamed(rows, Reading().reader(path, rows[0], streamed=True), made.examples.checks)
    assert streamed[2].answer == "2"
    with pytest.raises(InputError, match=r"prompt 'line-4' has 253 tokens, which with rollout.max_tokens=4 exceeds"):
        streamed[3]


def test_choosing_examples_needs_all_rows(tmp_path: Path) -> None:
    data = str(write(tmp_path / "a.jsonl", 4))
    with pytest.raises(InputError, match="one_shot needs all rows at once, and streaming=true"):
        prepare(Asked("grpo", {**ANY, "data": data, "streaming": True, "one_shot": "line-1"}))


def test_a_task_that_grades_rows_is_restricted_by_itself(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    name = "rg:chain_sum,size=5,heldout=2,ood=0"
    asked = {**ANY, "task": name, "one_shot": "train-3", "grading.deadline": 3.0, "grading.workers": 1}
    resolved, task = prepare(Asked("grpo", asked))
    assert isinstance(task, ReasoningGym) and (task.workers, task.deadline) == (1, 3.0)
    assert [row.id for row in task.split("train")] == ["train-3"] and len(task.split("heldout")) == 2
    assert chosen(resolved, task).split("train")[0].id == "train-3"
