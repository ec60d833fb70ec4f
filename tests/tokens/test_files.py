"""Data files: what is read from them, and the sentence that each unusable row gets."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rekindle.errors import InputError
from rekindle.tokens.tasks.files import FileTask, load_files


def write(folder: Path, *rows: Any, name: str = "data.jsonl") -> Path:
    path = folder / name
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        load_files(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_prompts_answers_ids_and_all_other_columns_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"prompt": "1+1?", "answer": 2, "id": "a", "level": 3},
        {"prompt": "name?"},
        {"prompt": "0.5?", "answer": "1/2", "id": 7},
        {"prompt": "gsm", "answer": "so #### 1,234."},
        {"prompt": "half", "answer": 0.5},
        {"prompt": "null", "answer": None},
    )
    rows = load_files(path).split("train")
    assert [row.prompt for row in rows] == ["1+1?", "name?", "0.5?", "gsm", "half", "null"]
    assert [row.answer for row in rows] == ["2", None, "1/2", "1,234.", "0.5", None]
    assert [row.id for row in rows] == ["a", "line-2", "7", "line-4", "line-5", "line-6"]
    assert rows[0].meta == {"id": "a", "level": 3, "answer": 2}, "the answer as the file holds it"


def test_the_answer_of_every_labelled_row_passes_its_own_grader(tmp_path: Path) -> None:
    answers = [2, "1/2", "so #### 1,234.", 0.5, r"\frac{1}{3}", "(B)", "x + y"]
    task = load_files(write(tmp_path, *({"prompt": "p", "answer": answer} for answer in answers)))
    for row in task.split("train"):
        assert task.grade(task.extract(rf"I think \boxed{{{row.answer}}}"), row.answer) is True


def test_solution_is_read_where_there_is_no_answer_and_stays_a_column(tmp_path: Path) -> None:
    (row,) = load_files(write(tmp_path, {"prompt": "p", "answer": None, "solution": r"so \boxed{4}"})).split("train")
    assert row.answer == "4"
    assert row.meta["solution"] == r"so \boxed{4}"


def test_a_conversation_keeps_its_messages_and_its_last_turn_is_the_prompt(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "q", "name": None}]
    (row,) = load_files(write(tmp_path, {"prompt": messages})).split("train")
    assert row.prompt == "q"
    assert row.meta["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]


def test_byte_order_mark_carriage_returns_blank_lines_and_line_separators(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n   \n{"prompt": "b\xe2\x80\xa8c"}')
    rows = load_files(path).split("train")
    assert [(row.id, row.prompt) for row in rows] == [("line-1", "a"), ("line-4", "b\u2028c")]


def test_json_may_be_a_list_or_one_object_a_line(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": "b"}]
    listed = load_files(write(tmp_path, json.dumps(rows, indent=1), name="list.json")).split("train")
    lines = load_files(write(tmp_path, *rows, name="lines.json")).split("train")
    assert [row.prompt for row in listed] == [row.prompt for row in lines] == ["a", "b"]
    assert [row.id for row in listed] == ["row-1", "row-2"]


def test_parquet_in_trl_layout(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"prompt": ["a", "b"], "answer": ["1", None], "level": [1, 2]}), path)
    rows = load_files(path).split("train")
    assert [(row.id, row.prompt, row.answer, row.meta) for row in rows] == [
        ("row-1", "a", "1", {"level": 1, "answer": "1"}),
        ("row-2", "b", None, {"level": 2}),
    ]


def test_parquet_in_verl_layout(tmp_path: Path) -> None:
    row = {
        "data_source": "gsm8k",
        "prompt": [{"role": "user", "content": "q"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "72"},
        "extra_info": {"split": "train", "index": 0},
    }
    path = tmp_path / "data.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    (example,) = load_files(path).split("train")
    assert (example.prompt, example.answer) == ("q", "72")
    assert example.meta["reward_model"]["ground_truth"] == "72"
    assert example.meta["data_source"] == "gsm8k"


GOOD = {"prompt": "p", "id": "x"}
BAD_ROWS = {
    "not json": ('{"prompt": ', r"line 2: invalid JSON at column \d+"),
    "not an object": ("[1]", r"line 2: not a JSON object"),
    "duplicate key": ('{"prompt": "a", "prompt": "b"}', r"line 2: .*the key 'prompt' occurs twice"),
    "too deep": ("[" * 200_000, r"line 2: invalid JSON"),
    "huge integer": ('{"prompt": "p", "answer": ' + "1" * 5000 + "}", r"line 2: invalid JSON"),
    "no prompt": ({"question": "q"}, r"line 2: no 'prompt' \(columns: 'question'\)"),
    "null prompt": ({"prompt": None}, r"line 2: no 'prompt'"),
    "number prompt": ({"prompt": 5}, r"line 2, column 'prompt': must be a text or a list of messages, not an integer"),
    "empty prompt": ({"prompt": ""}, r"line 2, column 'prompt': the text is empty"),
    "blank prompt": ({"prompt": " \n"}, r"line 2, column 'prompt': the text is empty"),
    "surrogate": ('{"prompt": "\\ud800"}', r"line 2, column 'prompt': holds half of a surrogate pair"),
    "no messages": ({"prompt": []}, r"line 2, column 'prompt': the list of messages is empty"),
    "no role": ({"prompt": [{"content": "q"}]}, r"column 'prompt', message 1: must be an object with 'role'"),
    "parts": ({"prompt": [{"role": "user", "content": [1]}]}, r"message 1: 'content' must be a text, not a list"),
    "last turn": ({"prompt": [{"role": "assistant", "content": "a"}]}, r"the last message has role 'assistant'"),
    "duplicate id": ({"prompt": "q", "id": "x"}, r"line 2: duplicate id 'x', also at line 1"),
    "bool id": ({"prompt": "q", "id": True}, r"column 'id': must be a text or an integer, not a boolean"),
    "list answer": ({"prompt": "q", "answer": ["5"]}, r"line 2, column 'answer': .* \(a list\) cannot be graded"),
    "bool answer": ({"prompt": "q", "answer": True}, r"column 'answer': True \(a boolean\) cannot be graded"),
    "empty answer": ({"prompt": "q", "answer": ""}, r"line 2, column 'answer': '' \(a text\) cannot be graded"),
    "nan answer": ('{"prompt": "q", "answer": NaN}', r"column 'answer': nan \(a number\) cannot be graded"),
    "long answer": ({"prompt": "q", "answer": "1" * 3000}, r"column 'answer': .*\.\.\. \(a text\) cannot be graded"),
    "verl answer": ({"prompt": "q", "reward_model": {"ground_truth": [1]}}, r"column 'reward_model': \[1\]"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_an_unusable_row_is_named_by_file_line_and_column(tmp_path: Path, case: str) -> None:
    row, sentence = BAD_ROWS[case]
    assert re.search(sentence, refusal(write(tmp_path, GOOD, row)))


UNGRADABLE = ["list answer", "bool answer", "empty answer", "nan answer", "long answer", "verl answer"]


@pytest.mark.parametrize("case", UNGRADABLE)
def test_reward_functions_may_have_any_answer(tmp_path: Path, case: str) -> None:
    path = write(tmp_path, {"prompt": "p", "answer": "7"}, BAD_ROWS[case][0])
    first, second = load_files(path, rewarded=True).split("train")
    assert (first.answer, first.meta["answer"]) == ("7", "7")
    assert second.answer is None and second.meta["answer"] is not None


def test_the_answer_goes_before_a_solution_and_both_are_columns_for_reward_functions(tmp_path: Path) -> None:
    shapes: list[dict[str, Any]] = [{"prompt": "p"}, {"problem": "p"}]
    for shape in shapes:
        path = write(tmp_path, {**shape, "answer": "4", "solution": r"so \boxed{5}"}, {**shape, "answer": "6"})
        assert [row.answer for row in load_files(path).split("train")] == ["4", "6"]
    path = write(tmp_path, {"prompt": "p", "answer": {"tests": ["f(1)"]}, "solution": "def f"})
    (row,) = load_files(path, rewarded=True).split("train")
    assert row.meta == {"answer": {"tests": ["f(1)"]}, "solution": "def f"}


def test_the_other_sentences_stay_with_reward_functions(tmp_path: Path) -> None:
    for case in BAD_ROWS.keys() - set(UNGRADABLE):
        row, sentence = BAD_ROWS[case]
        with pytest.raises(InputError, match=sentence):
            load_files(write(tmp_path, GOOD, row), rewarded=True)


def test_the_profile_leaves_the_optimiser_to_the_method() -> None:
    assert FileTask.profile.keys() == {
        *("rollout.prompts", "rollout.group", "rollout.votes", "rollout.max_tokens", "steps")
    }


def test_integer_and_text_ids_that_look_alike_are_duplicates(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "a", "id": 1}, "", {"prompt": "b", "id": "1"})
    assert "line 3: duplicate id '1', also at line 1" in refusal(path)


def test_unusable_files(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    assert "not a file" in refusal(tmp_path / "folder.jsonl")
    assert "unknown extension '.csv'" in refusal(write(tmp_path, "prompt", name="data.csv"))
    assert "holds no rows" in refusal(write(tmp_path, name="empty.jsonl"))
    assert "holds no rows" in refusal(write(tmp_path, "", "  ", name="blank.jsonl"))
    assert "holds no rows" in refusal(write(tmp_path, "[]", name="empty.json"))
    assert "holds no rows" in refusal(write(tmp_path, " [ ", "]", name="spaced.json"))
    assert "holds no rows" in refusal(write(tmp_path, name="nothing.json"))
    assert "line 3: invalid JSON" in refusal(write(tmp_path, '[{"prompt": "a"},\n\n{]', name="bad.json"))
    binary = tmp_path / "latin.jsonl"
    binary.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xe9"}\n')
    assert "line 2: byte 13 is not valid UTF-8" in refusal(binary)


def test_unusable_parquet(tmp_path: Path) -> None:
    broken = write(tmp_path, "no parquet", name="data.parquet")
    assert "not a readable parquet file" in refusal(broken)
    empty = tmp_path / "empty.parquet"
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), empty)
    assert "holds no rows" in refusal(empty)
    pq.write_table(pa.table({}), empty)
    assert "holds no rows" in refusal(empty)
    with pytest.raises(InputError, match=r"empty\.parquet: the file holds no rows"):
        load_files(write(tmp_path, {"prompt": "t"}), heldout=empty)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"question": ["q"]}), other)
    assert "row 1: no 'prompt' (columns: 'question')" in refusal(other)


def test_splits_come_from_files_of_their_own(tmp_path: Path) -> None:
    train = write(tmp_path, {"prompt": "t"})
    task = FileTask(train, heldout=write(tmp_path, {"prompt": "h"}, name="heldout.jsonl"))
    assert [row.prompt for row in task.split("heldout")] == ["h"]
    with pytest.raises(InputError, match=r"no split 'ood' \(there: train, heldout\)"):
        task.split("ood")
    with pytest.raises(InputError, match="no split 'heldout'"):
        FileTask(train).split("heldout")


def test_only_a_box_after_the_thinking_is_an_answer(tmp_path: Path) -> None:
    task = load_files(write(tmp_path, {"prompt": "p"}))
    assert task.extract(r"<think>\boxed{1}</think> so \boxed{ 2.0 }") == "2"
    assert task.extract(r"<think>\boxed{1}</think> so 2") is None
    assert task.extract("the answer is 5") is None
    assert task.extract(r"\boxed{}") is None
    assert task.steps(r"<think>x</think>a=1, so \boxed{1} \boxed{2}.") == r"a=1, so \boxed{1} "
    assert task.steps("no box") == "no box"
    assert task.grade(None, "5") is False
    assert task.grade("5", None) is None
    assert (task.well_formed(r"\boxed{A}"), task.well_formed("A")) == (True, False)
    assert task.derivation(task.split("train")[0], "x") is None


def test_a_task_travels_to_another_process(tmp_path: Path) -> None:
    task = load_files(write(tmp_path, {"prompt": "p", "answer": 3}))
    copy = pickle.loads(pickle.dumps(task))
    assert copy.split("train") == task.split("train")
    assert copy.profile == task.profile
