"""What the rows of known data sets look like: the tests and the changes that the layouts are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.grading.boxed import extract_boxed

Columns = Mapping[str, Any]

LETTERS = "ABCD"
GPQA = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
# The frame of BytedTsinghua-SIA/DAPO-Math-17k. Its `Answer:` line is not where answers are looked for here.
DAPO_HEAD = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
DAPO_TAIL = '\n\nRemember to put your answer on its own line after "Answer:".'


def value_at(row: Columns, path: str) -> Any:
    """The value of the column `path`, or of a key inside it (`reward_model.ground_truth`); None where there is none."""
    if path in row:
        return row[path]
    value: Any = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def has_marker(row: Columns) -> bool:
    """Whether the answer ends in GSM8K's `#### 72`."""
    return isinstance(row["answer"], str) and "####" in row["answer"]


def doubt(row: Columns) -> str | None:
    """Why the answer beside a question should not be taken as it stands, None where nothing speaks against it."""
    answer, choices = row.get("answer"), row.get("choices")
    if has_marker({"answer": answer}):
        return (
            "holds '####' and that of the first row does not, so that prose would be taken for answers: set "
            "data_layout=gsm8k, or data_layout=question to take each as it stands"
        )
    if isinstance(choices, list) and isinstance(answer, int) and not isinstance(answer, bool):
        return (
            f"{answer} is a place among the 'choices', which the prompt does not show: write a 'prompt' with lettered "
            "choices and the letter as 'answer', or set data_layout=question to take it as it stands"
        )
    return None


def has_box(text: str) -> bool:
    """Whether a written solution states its answer in a box."""
    return extract_boxed(text) is not None


def has_answer(text: str) -> bool:
    """Whether a written solution states its answer after GSM8K's marker, or in a box."""
    return "####" in text or has_box(text)


def asks_for_marker(row: Columns) -> bool:
    """Whether verl's GSM8K prompt asks for the answer after `####`."""
    return "gsm8k" in str(row["data_source"]) and '"####"' in str(row["prompt"])


def is_dapo(row: Columns) -> bool:
    """Whether a row is of DAPO-Math-17k as it was published, with its instruction around the problem."""
    return row["data_source"] == "math_dapo" and DAPO_HEAD[:40] in str(row["prompt"])


def without_frame(row: Columns) -> Columns:
    """DAPO's row with the bare problem as its last message."""
    messages = row.get("prompt")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(messages, list) or not isinstance(last, Mapping) or not isinstance(last.get("content"), str):
        return row
    bare = last["content"].removeprefix(DAPO_HEAD).removesuffix(DAPO_TAIL)
    return {**row, "prompt": [*messages[:-1], {**last, "content": bare}]}


def lettered(row: Columns) -> Columns:
    """GPQA's row with `prompt`, the question and its choices in an order of the row's own, and the right letter.

    The order hashes the row's texts, so that it is the same in every process and whatever rows stand around it.
    InputError naming a column that is empty, or a wrong answer that is the right one.
    """
    for name in ("Question", *GPQA):
        if not isinstance(row[name], str) or not row[name].strip():
            raise InputError(f"column '{name}': must be a text that is not empty: write one or drop the row")
    texts = [row[name] for name in GPQA]
    same = next((name for name in GPQA[1:] if row[name].strip() == texts[0].strip()), None)
    if same is not None:
        raise InputError(f"column '{same}': is the correct answer too: change it or drop the row")
    order = sorted(range(len(texts)), key=lambda i: hashlib.sha256(f"{row['Question']}\0{texts[i]}".encode()).digest())
    choices = [texts[i].strip() for i in order]
    shown = "\n".join(f"({letter}) {text}" for letter, text in zip(LETTERS, choices, strict=True))
    prompt = f"{row['Question'].strip()}\n\n{shown}"
    return {**row, "prompt": prompt, "choices": choices, "answer": LETTERS[order.index(0)]}
