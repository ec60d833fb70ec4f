"""Layouts: each is recognised by its columns on a row of its shape, and its own gold answer is accepted."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from rekindle.errors import InputError
from rekindle.tokens.grading.grader import Grader
from rekindle.tokens.rewards.rows import Names, columns, truth
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks import TASKS, load_task
from rekindle.tokens.tasks.files import FileTask, Reading, load_files
from rekindle.tokens.tasks.layouts import (
    CHOICE_PROMPT,
    FOREIGN,
    LAYOUTS,
    NAMES,
    SYSTEM_PROMPT,
    recognise,
)
from rekindle.tokens.tasks.shapes import DAPO_HEAD, DAPO_TAIL, value_at


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


VERL = {"ability": "math", "extra_info": {"split": "train", "index": 0}}
GPQA = {
    "Question": "Which of these is a noble gas?",
    "Correct Answer": "Neon\n",
    "Incorrect Answer 1": "Oxygen",
    "Incorrect Answer 2": "Iron",
    "Incorrect Answer 3": "Boron",
    "Record ID": "rec1",
    "Subdomain": "Chemistry (general)",
}
ROWS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    # case: row, layout, prompt, answer
    "trl text": ({"prompt": "1+1?", "solution": r"so \boxed{2}", "level": 1}, "trl", "1+1?", "2"),
    "trl messages": ({"prompt": user("1+1?"), "answer": "2"}, "trl", "1+1?", "2"),
    "ttrl": ({"prompt": "Find x.", "answer": "204", "source": "AIME2024", "id": "0"}, "trl", "Find x.", "204"),
    "verl": (
        {"data_source": "lighteval/MATH", "prompt": user("1+1?"), "reward_model": {"ground_truth": "2"}, **VERL},
        "verl",
        "1+1?",
        "2",
    ),
    "verl gsm8k": (
        {
            "data_source": "openai/gsm8k",
            "prompt": user('1+1? Let\'s think step by step and output the final answer after "####".'),
            "reward_model": {"style": "rule", "ground_truth": "72"},
            **VERL,
        },
        "verl_gsm8k",
        '1+1? Let\'s think step by step and output the final answer after "####".',
        "72",
    ),
    "skyrl": (
        {
            "data_source": "openai/gsm8k",
            "prompt": user("1+1?"),
            "env_class": "gsm8k",
            "reward_spec": {"method": "rule", "ground_truth": "2"},
            "extra_info": {"split": "train"},
        },
        "skyrl",
        "1+1?",
        "2",
    ),
    "dapo": (
        {
            "data_source": "math_dapo",
            "prompt": user(f"{DAPO_HEAD}What is 17*2?{DAPO_TAIL}"),
            "ability": "MATH",
            "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": "9a9b6eb4"},
        },
        "dapo",
        "What is 17*2?",
        "34",
    ),
    "openrlhf": ({"input": "1+1?", "label": "2", "datasource": "x"}, "openrlhf", "1+1?", "2"),
    "gsm8k": ({"question": "72?", "answer": "She sold <<48/2=24>>24.\n#### 1,072"}, "gsm8k", "72?", "1,072"),
    "question": ({"question": "72?", "answer": 72.0, "url": "u"}, "question", "72?", "72.0"),
    "math-500": (
        {
            "problem": "Convert.",
            "solution": r"so $\boxed{\left( 3, \frac{\pi}{2} \right)}$",
            "answer": r"\left( 3, \frac{\pi}{2} \right)",
            "subject": "Precalculus",
            "level": 2,
            "unique_id": "test/precalculus/807.json",
        },
        "math",
        "Convert.",
        r"\left( 3, \frac{\pi}{2} \right)",
    ),
    "hendrycks": (
        {"problem": "Half?", "solution": r"It is $\boxed{\frac12}$.", "level": "Level 1", "type": "Algebra"},
        "hendrycks",
        "Half?",
        r"\frac12",
    ),
    "aime 2024": (
        {"ID": "2024-I-1", "Problem": "Aya walks.", "Solution": "...", "Answer": 204},
        "aime",
        "Aya walks.",
        "204",
    ),
    "aime 2025": ({"problem": "Sum of bases.", "answer": "70", "id": "0"}, "amc", "Sum of bases.", "70"),
    "amc": ({"id": 0, "problem": "m/n?", "answer": 142.0, "url": "https://x"}, "amc", "m/n?", "142.0"),
}


def one(folder: Path, row: dict[str, Any], reading: Reading | None = None) -> tuple[FileTask, Example]:
    path = folder / "data.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    task = load_files(path, reading=reading)
    return task, task.split("train")[0]


@pytest.mark.parametrize("case", ROWS)
def test_a_row_is_recognised_and_its_gold_answer_is_accepted(tmp_path: Path, case: str) -> None:
    row, layout, prompt, answer = ROWS[case]
    task, example = one(tmp_path, row)
    assert task.layouts["train"].name == layout
    assert (example.prompt, example.answer) == (prompt, answer)
    rest = {name: value for name, value in row.items() if name not in ("prompt", "id", "answer")}
    assert rest.items() <= example.meta.items(), "every other column stays"
    assert task.grade(task.extract(rf"so \boxed{{{example.answer}}}"), example.answer) is True
    assert pickle.loads(pickle.dumps(task)).split("train")[0] == example


def test_every_layout_has_a_row_here_and_can_be_named() -> None:
    here = {layout.name for layout in LAYOUTS if not layout.brings}  # the others: tests/tokens/test_written.py
    assert {layout for _, layout, _, _ in ROWS.values()} | {"gpqa"} == here
    assert NAMES[0] == "auto" and len(set(NAMES)) == len(LAYOUTS) + 1


@pytest.mark.parametrize("case", ROWS)
def test_naming_the_layout_gives_what_recognising_it_gives(tmp_path: Path, case: str) -> None:
    row, layout, _, _ = ROWS[case]
    assert one(tmp_path, row, Reading(layout=layout))[1] == one(tmp_path, row)[1]


def test_gold_is_accepted_under_the_grading_that_the_layout_asks_for(tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {**{case: row for case, (row, *_) in ROWS.items()}, "gpqa": GPQA}
    said = {"boxed": r"so \boxed{%s}", "hash": "so\n#### %s", "choice": r"so \boxed{%s}"}
    for case, row in cases.items():
        task, example = one(tmp_path, row)
        rule = task.profile.get("grading.extract", "boxed")
        grader = Grader(task.profile.get("grading.by", "exact"), rule)
        try:
            (grade,) = grader.grade_rows([said[rule] % example.answer], [example])
        finally:
            grader.close()
        assert grade.success is True, (case, grade)


def test_the_profile_is_what_the_layout_needs(tmp_path: Path) -> None:
    asked = {case: one(tmp_path, row)[0] for case, (row, *_) in ROWS.items()}
    by = {case: task.profile.get("grading.by") for case, task in asked.items()}
    assert {case for case, way in by.items() if way == "math"} == {"math-500", "hendrycks"}
    assert asked["verl gsm8k"].profile["grading.extract"] == "hash"
    assert asked["verl gsm8k"].system_prompt is None, "the prompt has its own instruction"
    assert asked["trl text"].system_prompt == SYSTEM_PROMPT
    assert asked["trl text"].profile.keys() == FileTask.profile.keys()


def test_dapo_without_its_frame_and_conversations_keep_their_other_messages(tmp_path: Path) -> None:
    row = ROWS["dapo"][0]
    _, example = one(tmp_path, row)
    assert example.meta["messages"] == user("What is 17*2?")
    system = {"role": "system", "content": "s"}
    _, example = one(tmp_path, {**row, "prompt": [system, *row["prompt"]]})
    assert example.meta["messages"] == [system, *user("What is 17*2?")]


def test_gpqa_becomes_letters_in_an_order_of_the_rows_own(tmp_path: Path) -> None:
    task, example = one(tmp_path, GPQA)
    assert task.profile["grading.by"] == "choice" and task.system_prompt == CHOICE_PROMPT
    assert example.id == "rec1" and example.answer in "ABCD"
    assert example.meta["choices"]["ABCD".index(str(example.answer))] == "Neon"
    assert f"({example.answer}) Neon" in example.prompt and example.prompt.startswith(GPQA["Question"])
    assert one(tmp_path, {"other": 1, **GPQA})[1].prompt == example.prompt, "it hangs on the texts alone"
    letters = {one(tmp_path, {**GPQA, "Question": f"{GPQA['Question']} ({i})"})[1].answer for i in range(40)}
    assert letters == set("ABCD")


def test_the_order_of_choices_is_the_same_in_every_process(tmp_path: Path) -> None:
    assert one(tmp_path, GPQA)[1].meta["choices"] == ["Boron", "Oxygen", "Neon", "Iron"]


def test_gpqa_without_a_choice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 1, column 'Incorrect Answer 2': must be a text that is not empty"):
        one(tmp_path, {**GPQA, "Incorrect Answer 2": None})
    with pytest.raises(InputError, match="line 1, column 'Incorrect Answer 3': is the correct answer too"):
        one(tmp_path, {**GPQA, "Incorrect Answer 3": " Neon"})


def test_verls_ground_truth_goes_before_other_columns(tmp_path: Path) -> None:
    row = {**ROWS["verl"][0], "answer": "a long way to 2", "solution": "3"}
    _, example = one(tmp_path, row)
    assert example.answer == "2" and truth(example) == "2"
    _, example = one(tmp_path, {**row, "reward_model": {"ground_truth": None}, "solution": None, "answer": "4"})
    assert example.answer == "4"


def test_a_written_solution_without_its_mark_is_no_reference(tmp_path: Path) -> None:
    solved = {"problem": "p", "solution": "so \\boxed{1}"}
    for rows, mark in (
        ([solved, {"problem": "q", "solution": "It is 2."}], "1"),
        ([{"question": "p", "answer": "x\n#### 1"}, {"question": "q", "answer": "It is 2."}], "1"),
    ):
        path = tmp_path / "a.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        first, second = load_files(path).split("train")
        assert (first.answer, second.answer) == (mark, None)
        assert second.meta["answer"] == "It is 2.", "reward functions get it as the data holds it"


def test_a_column_of_messages_beside_the_prompt_is_kept_for_reward_functions(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "1"}]
    row = {"problem": "p", "solution": "so 1", "answer": "1", "messages": talk}
    task, example = one(tmp_path, row)
    assert (task.layouts["train"].name, example.prompt, example.answer) == ("math", "p", "1")
    assert example.meta[FOREIGN] == talk and "messages" not in example.meta, "it is no conversation to answer"
    assert columns([example], Names().see([example]))["messages"] == [talk]
    _, example = one(tmp_path, {"prompt": user("q"), "answer": "1", "messages": talk})
    assert example.meta["messages"] == user("q") and example.meta[FOREIGN] == talk
    with pytest.raises(InputError, match=r"no 'prompt' .*name it by data_prompt"):
        one(tmp_path, {"instruction": "p"})


def test_columns_may_be_named(tmp_path: Path) -> None:
    row = {"q": "1+1?", "gold": {"value": "2"}, "prompt_id": 7}
    task, example = one(tmp_path, row, Reading(prompt="q", answer="gold.value"))
    assert (example.prompt, example.answer, task.layouts["train"].name) == ("1+1?", "2", "trl")
    assert example.meta["gold"] == {"value": "2"}
    _, example = one(tmp_path, {"prompt": "p", "target": 3, "answer": "x"}, Reading(answer="target"))
    assert example.answer == "3"
    _, example = one(tmp_path, {"messages": user("hi"), "answer": "1"}, Reading(prompt="messages"))
    assert example.prompt == "hi" and example.meta["messages"] == user("hi")
    assert value_at({"a.b": 1, "a": {"b": 2}}, "a.b") == 1
    assert value_at({"a": 5}, "a.b") is None


@pytest.mark.parametrize("prompt", [None, "hello", [], ["hello"], [None], [{"role": "user"}]])
def test_a_row_of_dapo_without_a_prompt_gets_its_sentence(tmp_path: Path, prompt: object) -> None:
    sound = {"data_source": "math_dapo", "prompt": user(DAPO_HEAD + "1+1?"), "reward_model": {"ground_truth": "2"}}
    bad = {**sound, "prompt": prompt} if prompt is not None else {k: v for k, v in sound.items() if k != "prompt"}
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(sound)}\n{json.dumps(bad)}\n")
    if prompt == "hello":
        assert [row.prompt for row in load_files(path).split("train")] == ["1+1?", "hello"]
        return
    with pytest.raises(InputError, match=r"a\.jsonl, line 2(: no 'prompt'|, column 'prompt'(:|, message 1:))"):
        load_files(path)


def test_a_row_of_gpqa_names_the_column_that_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (GPQA, {k: GPQA[k] for k in GPQA if k != "Question"})))
    with pytest.raises(InputError, match=r"line 2: no 'Question' \(columns: .*\): add one or drop the row"):
        load_files(path)


PROSE = {"question": "p", "answer": "It is 2."}
MARKED = {"question": "q", "answer": "x\n#### 1"}


def test_which_row_comes_first_does_not_change_what_is_an_answer_silently(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"

    def answers(*rows: dict[str, Any], **more: Any) -> list[str | None]:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [row.answer for row in load_files(path, reading=Reading(**more)).split("train")]

    assert answers(MARKED, PROSE) == ["1", None]
    with pytest.raises(InputError, match=r"line 2, column 'answer': holds '####' .*: set data_layout=gsm8k"):
        answers(PROSE, MARKED)
    assert answers(PROSE, MARKED, layout="gsm8k") == [None, "1"]
    assert answers(PROSE, MARKED, layout="question") == ["It is 2.", "1"], "who insists gets it"


def test_an_answer_that_is_a_place_among_choices_is_refused(tmp_path: Path) -> None:
    row = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 2}
    with pytest.raises(
        InputError, match=r"line 1, column 'answer': 2 is a place among the 'choices', which the prompt"
    ):
        one(tmp_path, row)
    assert one(tmp_path, row, Reading(layout="question"))[1].answer == "2"
    assert one(tmp_path, {**row, "answer": "C"})[1].answer == "C"


RENAMED: dict[str, tuple[dict[str, Any], Reading, str, str | None]] = {
    # case: row, how it is read, the layout, its answer
    "prompt": ({"input": "p", "label": "2"}, Reading(prompt="input"), "openrlhf", "2"),
    "graded": ({"problem": "p", "solution": "5", "answer": "2"}, Reading(prompt="problem"), "math", "2"),
    "made": ({**GPQA, "q": "p"}, Reading(prompt="q"), "trl", None),
    "plain answer": ({**MARKED, "question": "p", "final": "2"}, Reading(answer="final"), "gsm8k", "2"),
    "named": ({"q": "p", "a": "so\n#### 2"}, Reading(layout="gsm8k", prompt="q", answer="a"), "gsm8k", "2"),
    "path": (
        {"prompt": "p", "gold": {"x": "2"}, "reward_spec": 1},
        Reading(layout="skyrl", answer="gold.x"),
        "skyrl",
        "2",
    ),
}


@pytest.mark.parametrize("case", RENAMED)
def test_names_of_columns_replace_those_of_the_layout_and_nothing_else(tmp_path: Path, case: str) -> None:
    row, reading, name, answer = RENAMED[case]
    task, example = one(tmp_path, row, reading)
    assert (task.layouts["train"].name, example.prompt, example.answer) == (name, "p", answer)
    assert task.profile.get("grading.by") == ("math" if name == "math" else None)


def test_data_to_evaluate_on_may_lack_the_columns_that_are_named(tmp_path: Path) -> None:
    train, held = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    train.write_text('{"input": "p", "label": "2"}\n')
    held.write_text('{"prompt": "q", "answer": "3"}\n')
    task = load_files(train, heldout=held, reading=Reading(prompt="input", answer="label"))
    assert [(row.prompt, row.answer) for row in task.split("heldout")] == [("q", "3")]
    with pytest.raises(InputError, match="data_prompt names no column 'inptu'"):
        load_files(train, heldout=held, reading=Reading(prompt="inptu"))


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        (Reading(layout="gsm8"), "unknown data_layout 'gsm8': did you mean 'gsm8k'"),
        (Reading(layout="gpqa"), "data_layout=gpqa needs a column 'Question' (columns: 'prompt', 'anwser')"),
        (Reading(prompt="promt"), "data_prompt names no column 'promt': did you mean 'prompt'"),
        (Reading(answer="answer"), "data_answer names no column 'answer': did you mean 'anwser'"),
    ],
)
def test_names_that_are_not_there_are_refused(tmp_path: Path, reading: Reading, words: str) -> None:
    with pytest.raises(InputError) as caught:
        one(tmp_path, {"prompt": "p", "anwser": "2"}, reading)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_row_of_another_layout_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_text('{"question": "a", "answer": "#### 1"}\n{"prompt": "b", "answer": "2"}\n')
    with pytest.raises(InputError, match=r"line 2: no 'question' \(columns: 'prompt', 'answer'\)"):
        load_files(path)
    assert recognise({"text": "a"}).name == "trl", "what is unknown gets TRL's sentences"


def test_splits_of_several_layouts_share_one_way_of_grading_or_are_refused(tmp_path: Path) -> None:
    def write(name: str, row: dict[str, Any]) -> Path:
        (tmp_path / name).write_text(json.dumps(row) + "\n")
        return tmp_path / name

    plain, hard = write("train.jsonl", ROWS["gsm8k"][0]), write("hard.jsonl", ROWS["math-500"][0])
    task = load_files(plain, heldout=hard)
    assert task.profile["grading.by"] == "math", "it also holds what exact would"
    assert [layout.name for layout in task.layouts.values()] == ["gsm8k", "math"]
    with pytest.raises(InputError, match=r"data_heldout is laid out as 'gpqa', which needs grading.by=choice"):
        load_files(plain, heldout=write("gpqa.jsonl", GPQA))
    marked = write("marked.jsonl", ROWS["verl gsm8k"][0])
    with pytest.raises(InputError, match=r"needs grading\.extract=hash"):
        load_files(plain, ood=marked)


def test_schemas_and_tests_are_references_where_they_are_graded(tmp_path: Path) -> None:
    row = {"prompt": "p", "schema": {"type": "object"}, "answer": None}
    assert one(tmp_path, row, Reading(by="json"))[1].answer == '{"type": "object"}'
    tests = {"prompt": "p", "tests": ["assert f(1) == 2"]}
    assert json.loads(str(one(tmp_path, tests, Reading(by="code"))[1].answer)) == ["assert f(1) == 2"]
    assert one(tmp_path, {"prompt": "p", "answer": "assert f(1)"}, Reading(by="code"))[1].answer == "assert f(1)"
    assert one(tmp_path, {**tests, "answer": [1]}, Reading(by="code", rewarded=True))[1].answer is None


@pytest.mark.parametrize("name", [*TASKS, "rg:gcd,size=5,heldout=2,ood=2"])
def test_every_shipped_task_accepts_its_own_gold(name: str) -> None:
    task = load_task(name)
    rows = [row for split in task.splits for row in task.split(split)]
    assert len(rows) >= 9
    for row in rows:
        assert row.answer is not None and task.grade(row.answer, row.answer) is True
