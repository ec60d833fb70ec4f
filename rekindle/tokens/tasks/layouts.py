r"""How the columns of a data file are read: one record a layout, told apart by the names of its columns.

A layout says which column is the prompt and which the answer; every other column stays in `Example.meta`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rekindle.errors import InputError, nearest, unknown
from rekindle.tokens.grading.boxed import extract_boxed

Columns = Mapping[str, Any]

SYSTEM_PROMPT = r"Please reason step by step, and put your final answer within \boxed{}."  # Qwen2.5-Math's model card
CHOICE_PROMPT = r"Please reason step by step, and put the letter of your answer within \boxed{}."
LETTERS = "ABCD"
FOREIGN = "messages_column"
"""Where `Example.meta` has a column `messages` that is not the prompt."""
_GPQA = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
# The frame of BytedTsinghua-SIA/DAPO-Math-17k. Its `Answer:` line is not where answers are looked for here.
DAPO_HEAD = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
DAPO_TAIL = '\n\nRemember to put your answer on its own line after "Answer:".'


def _always(row: Columns) -> bool:
    return True


def _any_text(text: str) -> bool:
    return True


def _unchanged(row: Columns) -> Columns:
    return row


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way of laying out a data set.

    columns: those that tell it, all of them present; fits: what their values must say besides. change: row -> row, for
    a prompt or an answer that must be made. prompt, answer, id: the columns that hold them afterwards, `a.b` for a key
    of an object; answer None: verl's `reward_model.ground_truth`, or else `answer` or `solution`. stated: whether a
    worked solution in the answer's column states its answer; a row whose does not has no reference. profile: options
    that such data needs. system_prompt: of its prompts, None where they carry their own instruction.
    """

    name: str
    columns: tuple[str, ...]
    prompt: str = "prompt"
    answer: str | None = None
    id: str = "id"
    fits: Callable[[Columns], bool] = _always
    change: Callable[[Columns], Columns] = _unchanged
    stated: Callable[[str], bool] = _any_text
    profile: Mapping[str, Any] = field(default_factory=dict)
    system_prompt: str | None = SYSTEM_PROMPT


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
    messages = [dict(message) for message in row["prompt"]] if isinstance(row["prompt"], list) else []
    if not messages or not isinstance(messages[-1].get("content"), str):
        return row
    messages[-1]["content"] = messages[-1]["content"].removeprefix(DAPO_HEAD).removesuffix(DAPO_TAIL)
    return {**row, "prompt": messages}


def lettered(row: Columns) -> Columns:
    """GPQA's row with `prompt`, the question and its choices in an order of the row's own, and the right letter.

    The order hashes the row's texts, so that it is the same in every process and whatever rows stand around it.
    InputError naming a column that is empty, or a wrong answer that is the right one.
    """
    for name in ("Question", *_GPQA):
        if not isinstance(row[name], str) or not row[name].strip():
            raise InputError(f"column '{name}': must be a text that is not empty: write one or drop the row")
    texts = [row[name] for name in _GPQA]
    same = next((name for name in _GPQA[1:] if row[name].strip() == texts[0].strip()), None)
    if same is not None:
        raise InputError(f"column '{same}': is the correct answer too: change it or drop the row")
    order = sorted(range(len(texts)), key=lambda i: hashlib.sha256(f"{row['Question']}\0{texts[i]}".encode()).digest())
    choices = [texts[i].strip() for i in order]
    shown = "\n".join(f"({letter}) {text}" for letter, text in zip(LETTERS, choices, strict=True))
    prompt = f"{row['Question'].strip()}\n\n{shown}"
    return {**row, "prompt": prompt, "choices": choices, "answer": LETTERS[order.index(0)]}


_MATH = {"grading.by": "math"}
_CHOICE = {"grading.by": "choice", "grading.extract": "choice"}
_HASH = {"grading.extract": "hash"}
_VERL = ("data_source", "prompt", "reward_model")
TRL = Layout(name="trl", columns=("prompt",))
# The first that fits is taken: a layout stands before any other whose columns it holds too.
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="gpqa",
        columns=("Question", *_GPQA),
        answer="answer",
        id="Record ID",
        change=lettered,
        profile=_CHOICE,
        system_prompt=CHOICE_PROMPT,
    ),
    Layout(name="dapo", columns=_VERL, answer="reward_model.ground_truth", fits=is_dapo, change=without_frame),
    Layout(
        name="verl_gsm8k",
        columns=_VERL,
        answer="reward_model.ground_truth",
        fits=asks_for_marker,
        profile=_HASH,
        system_prompt=None,
    ),
    Layout(name="skyrl", columns=("prompt", "reward_spec"), answer="reward_spec.ground_truth"),
    Layout(name="verl", columns=_VERL),
    TRL,
    Layout(
        name="math",
        columns=("problem", "solution", "answer"),
        prompt="problem",
        answer="answer",
        id="unique_id",
        profile=_MATH,
    ),
    Layout(
        name="hendrycks",
        columns=("problem", "solution"),
        prompt="problem",
        answer="solution",
        stated=has_box,
        profile=_MATH,
    ),
    Layout(name="aime", columns=("Problem", "Answer"), prompt="Problem", answer="Answer", id="ID"),
    Layout(name="amc", columns=("problem", "answer"), prompt="problem", answer="answer"),
    Layout(
        name="gsm8k",
        columns=("question", "answer"),
        prompt="question",
        answer="answer",
        fits=has_marker,
        stated=has_answer,
    ),
    Layout(name="question", columns=("question", "answer"), prompt="question", answer="answer"),
    Layout(name="openrlhf", columns=("input", "label"), prompt="input", answer="label"),
)
NAMES: tuple[str, ...] = ("auto", *(layout.name for layout in LAYOUTS))


def recognise(row: Columns) -> Layout:
    """The first layout whose columns the row has and whose values fit; TRL's where none does."""
    fits = (one for one in LAYOUTS if row.keys() >= set(one.columns) and one.fits(row))
    return next(fits, TRL)


def choose_layout(
    where: str, row: Columns, name: str = "auto", prompt: str | None = None, answer: str | None = None
) -> Layout:
    """The layout of a data set whose first row is `row`; prompt, answer: columns that the user names.

    InputError for an unknown name, for a layout whose columns the row lacks, and for a column that is not there.
    """
    if name not in NAMES:
        raise unknown("data_layout", name, NAMES)
    there = ", ".join(f"'{column}'" for column in row)
    if name == "auto":
        layout = TRL if prompt is not None else recognise(row)
    else:
        layout = next(one for one in LAYOUTS if one.name == name)
        lacking = [column for column in layout.columns if column not in row and not (prompt and layout is TRL)]
        if lacking:
            raise InputError(
                f"{where}: data_layout={name} needs a column '{lacking[0]}' (columns: {there}): choose another layout"
            )
    for option, column in (("data_prompt", prompt), ("data_answer", answer)):
        if column is not None and column not in row and value_at(row, column) is None:
            raise InputError(f"{where}: {option} names no column '{column}': {nearest(column, row)}")
    return replace(layout, prompt=prompt or layout.prompt, answer=answer or layout.answer)


def merged_profile(layouts: Mapping[str, Layout]) -> dict[str, Any]:
    """The options that the layouts of all splits ask for; InputError where one run cannot grade them all.

    "math" also holds what "exact" would, so the two go together.
    """
    train = dict(layouts["train"].profile)
    for split, layout in layouts.items():
        for option, usual in (("grading.by", "exact"), ("grading.extract", "boxed")):
            ours, theirs = train.get(option, usual), layout.profile.get(option, usual)
            if {ours, theirs} == {"exact", "math"}:
                train[option] = "math"
            elif ours != theirs:
                raise InputError(
                    f"data_{split} is laid out as '{layout.name}', which needs {option}={theirs}, and the training "
                    f"data {option}={ours}: measure it by `rekindle eval` instead"
                )
    return train
