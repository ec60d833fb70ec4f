"""Rows that bring responses: what each layout makes of them, and the sentence that each unusable row gets."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rekindle.errors import InputError
from rekindle.tokens.offline import ChosenRejected, Demonstrations, ScoredCompletions
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.files import FileTask, Reading, load_files
from rekindle.tokens.tasks.layouts import SYSTEM_PROMPT
from rekindle.tokens.tasks.lazy import Streamed


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def user(text: str) -> list[dict[str, str]]:
    return [message("user", text)]


def said(text: str) -> list[dict[str, str]]:
    return [message("assistant", text)]


def write(path: Path, *rows: Any) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(folder: Path, *rows: Any, ending: str = ".jsonl", **how: Any) -> tuple[FileTask, list[Example]]:
    task = load_files(write(folder / f"data{ending}", *rows), reading=Reading(**how))
    return task, list(task.split("train"))


def refusal(folder: Path, *rows: Any, **how: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, *rows, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{folder}/")


TALK = [message("system", "s"), *user("q")]
PAIR = {"chosen": "good", "rejected": "bad"}
HH = "\n\nHuman: Which?\n\nAssistant:"
ROWS: dict[str, tuple[dict[str, Any], str, str | list[dict[str, str]], dict[str, Any]]] = {
    # case: row, layout, prompt or its messages, responses
    "pair": ({"prompt": "q", **PAIR}, "preference", "q", PAIR),
    "pair of messages": ({"prompt": TALK, "chosen": said("good"), "rejected": said("bad")}, "preference", TALK, PAIR),
    "pair that repeats the prompt": (
        {"prompt": TALK, "chosen": TALK + said("good"), "rejected": TALK + said("bad")},
        "preference",
        TALK,
        PAIR,
    ),
    "pair that repeats a text": (  # HuggingFaceH4/ultrafeedback_binarized
        {"prompt": "q", "chosen": TALK + said("good"), "rejected": TALK + said("bad"), "messages": TALK + said("good")},
        "preference",
        TALK,
        PAIR,
    ),
    "pair of messages without a prompt": (
        {"chosen": TALK + said("good"), "rejected": TALK + said("bad")},
        "preference",
        TALK,
        PAIR,
    ),
    "pair without a prompt": (
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        "preference",
        "The sky is",
        {"chosen": " blue.", "rejected": " green."},
    ),
    "hh-rlhf": (
        {"chosen": f"{HH} The red one.", "rejected": f"{HH} The blue one."},
        "preference",
        HH,
        {"chosen": " The red one.", "rejected": " The blue one."},
    ),
    "demonstration": ({"prompt": "q", "completion": " a"}, "demonstration", "q", {"demonstration": " a"}),
    "demonstration in messages": (
        {"prompt": user("q"), "completion": said("a")},
        "demonstration",
        user("q"),
        {"demonstration": "a"},
    ),
    "messages": (
        {"messages": TALK + said("b") + user("r") + said("a")},
        "messages",
        TALK + said("b") + user("r"),
        {"demonstration": "a"},
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        "conversations",
        user("q"),
        {"demonstration": "a"},
    ),
    "scored": (
        {"prompt": "q", "completion": "a", "reward": 2},
        "scored",
        "q",
        {"completions": ["a"], "rewards": [2.0]},
    ),
    "scored lists": (
        {"prompt": "q", "completions": ["a", said("b")], "rewards": [1, -0.5]},
        "scored_lists",
        "q",
        {"completions": ["a", "b"], "rewards": [1.0, -0.5]},
    ),
    "labelled": (
        {"prompt": "q", "completion": "a", "label": True},
        "labelled",
        "q",
        {"completions": ["a"], "rewards": [1.0]},
    ),
}
OTHER = {  # a second row, so that the rewards of the data differ
    "scored": {"prompt": "r", "completion": "b", "reward": 0},
    "labelled": {"prompt": "r", "completion": "b", "label": False},
}


@pytest.mark.parametrize("case", ROWS)
def test_responses_are_brought_to_the_columns_that_methods_read(tmp_path: Path, case: str) -> None:
    row, layout, prompt, responses = ROWS[case]
    rows = [{**row, "level": 3}, *([OTHER[layout]] if layout in OTHER else [])]
    task, examples = read(tmp_path, *rows)
    assert task.layouts["train"].name == layout
    assert responses.items() <= examples[0].meta.items() and examples[0].meta["level"] == 3
    if isinstance(prompt, str):
        assert examples[0].prompt == prompt and "messages" not in examples[0].meta
    else:
        assert examples[0].prompt == prompt[-1]["content"] and examples[0].meta["messages"] == prompt
    gone = {"prompt", "completion", "reward", "label", "conversations"}
    assert not gone & examples[0].meta.keys() and examples[0].answer is None
    assert task.system_prompt is None, "no box is asked for where no answer is compared"
    assert read(tmp_path, *rows, layout=layout)[1] == examples
    assert pickle.loads(pickle.dumps(task)).split("train") == tuple(examples)


@pytest.mark.parametrize("case", [case for case in ROWS if case != "scored lists"])
def test_parquet_holds_the_same_rows(tmp_path: Path, case: str) -> None:
    row, layout, _, _ = ROWS[case]
    rows = [row, *([OTHER[layout]] if layout in OTHER else [])]
    told = [(example.prompt, example.meta) for example in read(tmp_path, *rows)[1]]
    assert [(example.prompt, example.meta) for example in read(tmp_path, *rows, ending=".parquet")[1]] == told


def test_draws_read_what_the_layouts_give(tmp_path: Path) -> None:
    _, (pair,) = read(tmp_path, ROWS["pair"][0])
    assert list(ChosenRejected().rows(pair)) == [("good", 1.0), ("bad", 0.0)]
    _, (shown,) = read(tmp_path, ROWS["messages"][0])
    assert list(Demonstrations().rows(shown)) == [("a", 1.0)]
    _, (scored,) = read(tmp_path, ROWS["scored lists"][0])
    assert list(ScoredCompletions().rows(scored)) == [("a", 1.0), ("b", -0.5)]


def test_rows_of_one_prompt_are_gathered_in_order_of_first_appearance(tmp_path: Path) -> None:
    rows = [
        {"prompt": prompt, "completion": text, "reward": reward, "id": name}
        for prompt, text, reward, name in (("q", "a", 1, "x"), ("r", "b", 0, "y"), ("q", "c", 0.5, "x"))
    ]
    for ending in (".jsonl", ".parquet"):
        _, (first, second) = read(tmp_path, *rows, ending=ending)
        assert (first.id, first.meta["completions"], first.meta["rewards"]) == ("x", ["a", "c"], [1.0, 0.5])
        assert (second.id, second.meta["completions"], second.meta["rewards"]) == ("y", ["b"], [0.0])
    with pytest.raises(InputError, match="line 2: duplicate id 'x', also at line 1: make ids unique"):
        read(tmp_path, rows[0], {**rows[1], "id": "x"})
    with pytest.raises(InputError, match="line 2: has the prompt of line 1 and another 'answer' "):
        read(tmp_path, {**rows[0], "answer": "1"}, {**rows[2], "answer": "2"})
    told = [{**row, "prompt": user(row["prompt"])} for row in rows]
    assert [example.meta["completions"] for example in read(tmp_path, *told)[1]] == [["a", "c"], ["b"]]
    apart = [{**told[0], "prompt": TALK, "id": "z"}, told[2]]
    assert len(read(tmp_path, *apart)[1]) == 2, "the same last message in another conversation is another prompt"


def test_rows_that_are_gathered_do_not_stream_and_lists_do(tmp_path: Path) -> None:
    words = "rows of one prompt are gathered, which needs all of them, .* one row a prompt with 'completions'"
    with pytest.raises(InputError, match=words):
        read(tmp_path, ROWS["scored"][0], OTHER["scored"], streaming=True)
    task, (example,) = read(tmp_path, ROWS["scored lists"][0], streaming=True)
    assert isinstance(task.split("train"), Streamed) and example.meta["completions"] == ["a", "b"]


PROMPT = {"prompt": "q"}
BAD: dict[str, tuple[dict[str, Any] | str, str]] = {
    "equal": ({**PROMPT, "chosen": "a", "rejected": "a"}, "columns 'chosen' and 'rejected': hold the same response"),
    "equal messages": (
        {"chosen": TALK + said("a"), "rejected": TALK + said("a")},
        "columns 'chosen' and 'rejected': hold the same response: change one or drop the row",
    ),
    "other type": (
        {**PROMPT, "chosen": "a", "rejected": said("b")},
        "columns 'chosen' and 'rejected': are a text and a list: write both as texts or both as lists of messages",
    ),
    "null": ({**PROMPT, "chosen": "a", "rejected": None}, "columns 'chosen' and 'rejected': are a text and null"),
    "empty": ({**PROMPT, "chosen": "a", "rejected": " "}, "column 'rejected': the text is empty: write one or drop"),
    "prefix": ({"chosen": "a b", "rejected": "a b c"}, "column 'chosen': the text is empty"),
    "nothing shared": ({"chosen": "a", "rejected": "b"}, "share no beginning, and there is no 'prompt': add one"),
    "other talk": (
        {"prompt": "other", "chosen": TALK + said("a"), "rejected": TALK + said("b")},
        "column 'chosen': its messages before the response do not hold the text in 'prompt'",
    ),
    "more turns": (
        {**PROMPT, "chosen": said("a"), "rejected": said("b") + user("c") + said("d")},
        "column 'rejected': a response is one message with role 'assistant', and these are 'assistant', 'user', ",
    ),
    "user's response": ({**PROMPT, "completion": user("a")}, "'assistant', and these are 'user': move the others"),
    "no response": ({**PROMPT, "completion": []}, "column 'completion': a response is one message with role"),
    "empty completion": ({**PROMPT, "completion": ""}, "column 'completion': the text is empty"),
    "number": ({**PROMPT, "completion": 5}, "column 'completion': must be a text or a list of one message, not an int"),
    "surrogate": ('{"prompt": "q", "completion": "\\ud800"}', "column 'completion': holds half of a surrogate pair"),
    "user ends": (
        {"messages": user("q")},
        "column 'messages': the last message has role 'user': end with role 'assistant' or drop the row",
    ),
    "no talk": ({"messages": "q"}, "column 'messages': must be a list of messages, not a text"),
    "empty talk": ({"messages": []}, "column 'messages': holds no message: end with role 'assistant'"),
    "answer alone": ({"messages": said("a")}, "column 'messages': the list of messages is empty"),
    "who": (
        {"conversations": [{"from": "cat", "value": "q"}]},
        "column 'conversations', message 1: 'from' is 'cat', none of human, user, gpt",
    ),
    "label": ({**PROMPT, "completion": "a", "label": 1}, "column 'label': must be true or false, not an integer"),
    "nan": ('{"prompt": "q", "completion": "a", "reward": NaN}', "column 'reward': must be a finite number, not nan"),
    "huge": ('{"prompt": "q", "completion": "a", "reward": 1%s}' % ("0" * 400), "must be a finite number, not an int"),
    "text reward": ({**PROMPT, "completion": "a", "reward": "1"}, "column 'reward': must be a finite number, not a t"),
    "true reward": ({**PROMPT, "completion": "a", "reward": True}, "must be a finite number, not a boolean"),
    "lengths": (
        {**PROMPT, "completions": ["a", "b"], "rewards": [1]},
        "columns 'completions' and 'rewards': have 2 and 1 entries: give each response a reward",
    ),
    "no list": ({**PROMPT, "completions": "a", "rewards": [1]}, "'completions': must be a list that is not empty, not"),
    "empty list": ({**PROMPT, "completions": ["a"], "rewards": []}, "'rewards': must be a list that is not empty, not"),
    "entry": ({**PROMPT, "completions": ["a", ""], "rewards": [1, 0]}, "column 'completions', entry 2: the text is e"),
    "infinite entry": (
        '{"prompt": "q", "completions": ["a", "b"], "rewards": [1, Infinity]}',
        "column 'rewards', entry 2: must be a finite number, not inf",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_an_unusable_row_is_named_by_file_line_and_column(tmp_path: Path, case: str) -> None:
    row, words = BAD[case]
    told = refusal(tmp_path, row)
    assert told.startswith("data.jsonl, line 1, column") and words in told


def test_rewards_that_are_all_equal_tell_nothing(tmp_path: Path) -> None:
    row = {"prompt": "q", "completion": "a", "reward": 1}
    words = (
        "all 2 rewards are 1, which tells no response from another: give rewards that differ, or rows of prompt and c"
    )
    assert words in refusal(tmp_path, row, {**row, "completion": "b"})
    assert read(tmp_path, row, {**row, "completion": "b"}, layout="demonstration")[1][1].meta["demonstration"] == "b"
    held = write(tmp_path / "held.jsonl", {**row, "answer": "1"})
    plain = write(tmp_path / "plain.jsonl", {"prompt": "p", "answer": "1"})
    assert load_files(plain, heldout=held).split("heldout")[0].answer == "1", "only what is trained on must differ"


def test_a_row_without_the_column_of_the_others_is_named(tmp_path: Path) -> None:
    told = refusal(tmp_path, {"prompt": "q", "completion": "a"}, {"prompt": "r"})
    assert "line 2: no 'completion' (columns: 'prompt'): add one or drop the row, or set data_layout=trl to re" in told
    _, rows = read(tmp_path, {"prompt": "q", "completion": "a"}, {"prompt": "r"}, layout="trl")
    assert [row.prompt for row in rows] == ["q", "r"] and rows[0].meta == {"completion": "a"}


def test_the_prompts_column_may_be_named_and_a_shared_word_is_no_prompt(tmp_path: Path) -> None:
    orca = {"system": "s", "question": "Why?", "chosen": "The sun.", "rejected": "The moon."}
    assert "no 'prompt' (columns: 'system', 'question'" in refusal(tmp_path, orca)
    task, (row,) = read(tmp_path, orca, prompt="question")
    assert (task.layouts["train"].name, row.prompt, row.meta["chosen"]) == ("preference", "Why?", "The sun.")
    _, (row,) = read(tmp_path, {"ask": {"text": "q"}, "completion": "a"}, prompt="ask.text")
    assert (row.prompt, row.meta["demonstration"]) == ("q", "a")
    _, (row,) = read(tmp_path, {"talk": user("q") + said("a")}, layout="messages", prompt="talk")
    assert (row.prompt, row.meta["demonstration"]) == ("q", "a")


def test_rows_with_an_answer_too_are_prompts_to_any_method(tmp_path: Path) -> None:
    row = {"prompt": "1+1?", "completion": r"so \boxed{2}", "answer": "2"}
    task, (example,) = read(tmp_path, row)
    assert (example.answer, example.meta["demonstration"]) == ("2", r"so \boxed{2}")
    assert task.system_prompt == SYSTEM_PROMPT, "they are asked for a box, as before"
    task, (example,) = read(tmp_path, {**row, "completions": ["a"], "rewards": [1]}, rewarded=True)
    assert task.layouts["train"].name == "trl" and example.meta["completion"] == row["completion"]


def test_held_out_answers_say_how_they_are_graded_where_training_rows_have_none(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", {"prompt": "q", **PAIR}, {"prompt": "r", **PAIR})
    hard = write(tmp_path / "hard.jsonl", {"problem": "p", "solution": r"so $\boxed{\frac12}$"})
    task = load_files(train, heldout=hard)
    assert task.profile["grading.by"] == "math" and task.split("heldout")[0].answer == r"\frac12"
    marked = {
        "data_source": "openai/gsm8k",
        "prompt": user('1+1? Write it after "####".'),
        "reward_model": {"ground_truth": "2"},
    }
    held = write(tmp_path / "held.jsonl", marked)
    assert load_files(train, heldout=held).profile["grading.extract"] == "hash"
    with pytest.raises(InputError, match=r"data_ood is laid out as .*, and data_heldout grading\.extract=hash"):
        load_files(train, heldout=held, ood=write(tmp_path / "ood.jsonl", {"prompt": "p", "answer": "1"}))
    answered = write(tmp_path / "answered.jsonl", {"prompt": "q", "answer": "1", **PAIR})
    with pytest.raises(InputError, match=r"and the training data grading\.extract=boxed"):
        load_files(answered, heldout=held)
