r"""How the columns of a data file are read: one record a layout, told apart by the names of its columns.

A layout says which column is the prompt and which the answer; every other column stays in `Example.meta`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rekindle.errors import InputError, nearest, unknown
from rekindle.tokens.tasks import written
from rekindle.tokens.tasks.shapes import (
    GPQA,
    Columns,
    asks_for_marker,
    doubt,
    has_answer,
    has_box,
    has_marker,
    is_dapo,
    lettered,
    value_at,
    without_frame,
)

SYSTEM_PROMPT = r"Please reason step by step, and put your final answer within \boxed{}."  # Qwen2.5-Math's model card
CHOICE_PROMPT = r"Please reason step by step, and put the letter of your answer within \boxed{}."
FOREIGN = "messages_column"
"""Where `Example.meta` has a column `messages` that is not the prompt."""


def _always(row: Columns) -> bool:
    return True


def _any_text(text: str) -> bool:
    return True


def _sure(row: Columns) -> str | None:
    return None


def _unchanged(row: Columns) -> Columns:
    return row


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way of laying out a data set.

    columns: those that tell it, all of them present; fits: what their values must say besides. change: row -> row, for
    a prompt or an answer that must be made; made: the prompt is. prompt, answer, id: the columns that hold them
    afterwards, `a.b` for a key of an object; answer None: verl's `reward_model.ground_truth`, or else `answer` or
    `solution`. stated: whether a worked solution in the answer's column states its answer; a row whose does not has no
    reference. doubt: why a row that only looks like this layout is refused. profile: options that such data needs.
    system_prompt: of its prompts, None where they carry their own instruction. brings: its rows bring responses, as
    `rekindle.tokens.tasks.written` reads them, beside `prompt`; gathers: rows of one prompt make one example.
    """

    name: str
    columns: tuple[str, ...]
    prompt: str = "prompt"
    answer: str | None = None
    id: str = "id"
    fits: Callable[[Columns], bool] = _always
    change: Callable[[Columns], Columns] = _unchanged
    made: bool = False
    doubt: Callable[[Columns], str | None] = _sure
    stated: Callable[[str], bool] = _any_text
    profile: Mapping[str, Any] = field(default_factory=dict)
    system_prompt: str | None = SYSTEM_PROMPT
    brings: bool = False
    gathers: bool = False


def _brings(
    name: str, *columns: str, change: Callable[[Columns], Columns], fits: Callable[[Columns], bool] = _always
) -> Layout:
    """A layout whose rows bring responses: nothing is asked for beside the prompt, for they are as they are."""
    return Layout(name=name, columns=columns, fits=fits, change=change, system_prompt=None, brings=True)


def _talk(column: str) -> Layout:
    return replace(_brings(column, column, change=partial(written.talk, column)), prompt=column, made=True)


_MATH = {"grading.by": "math"}
_CHOICE = {"grading.by": "choice", "grading.extract": "choice"}
_HASH = {"grading.extract": "hash"}
_VERL = ("data_source", "prompt", "reward_model")
TRL = Layout(name="trl", columns=("prompt",))
# The first that fits is taken: a layout stands before any other whose columns it holds too.
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="gpqa",
        columns=("Question", *GPQA),
        answer="answer",
        id="Record ID",
        change=lettered,
        made=True,
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
    _brings("preference", "chosen", "rejected", change=written.pair, fits=written.is_pair),
    _brings("scored_lists", "prompt", "completions", "rewards", change=written.scored_lists),
    replace(_brings("scored", "prompt", "completion", "reward", change=written.scored), gathers=True),
    replace(_brings("labelled", "prompt", "completion", "label", change=written.labelled), gathers=True),
    _brings("demonstration", "prompt", "completion", change=written.demonstration),
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
    Layout(name="question", columns=("question", "answer"), prompt="question", answer="answer", doubt=doubt),
    Layout(name="openrlhf", columns=("input", "label"), prompt="input", answer="label"),
    _talk("messages"),
    _talk("conversations"),
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
    for option, column in (("data_prompt", prompt), ("data_answer", answer)):
        if column is not None and not has(row, column):
            raise InputError(f"{where}: {option} names no column '{column}': {nearest(column, row)}")
    layout = _recognised(row, prompt, answer) if name == "auto" else _named(where, row, name, prompt, answer)
    if layout.brings and any(value_at(row, column) is not None for column in (answer or "answer", "solution")):
        layout = replace(layout, system_prompt=SYSTEM_PROMPT)  # there are answers to state
    return replace(layout, prompt=prompt or layout.prompt, answer=answer or layout.answer)


def has(row: Columns, column: str) -> bool:
    """Whether a row has a column, or a key `a.b` in one."""
    return column in row or value_at(row, column) is not None


def _recognised(row: Columns, prompt: str | None, answer: str | None) -> Layout:
    layout = recognise(row)
    if layout is TRL and prompt is not None:
        named = recognise({**row, "prompt": value_at(row, prompt)})
        columns = tuple(column for column in named.columns if column != "prompt")
        layout = replace(named, columns=columns) if named.brings else TRL
    if layout.made and prompt is not None:
        return TRL
    own = layout.system_prompt is None and not layout.brings
    if own and prompt not in (None, layout.prompt):  # what it asks for stood in its own prompt
        layout = next(one for one in LAYOUTS if one.name == "verl")
    other = answer not in (None, layout.answer)  # what the layout says of answers is said of its own column
    return replace(layout, stated=_any_text, doubt=_sure) if other else layout


def _named(where: str, row: Columns, name: str, prompt: str | None, answer: str | None) -> Layout:
    layout = next(one for one in LAYOUTS if one.name == name)
    theirs = {layout.prompt: prompt, (layout.answer or "").partition(".")[0]: answer}
    needed = tuple(column for column in layout.columns if theirs.get(column) is None)
    lacking = next((column for column in needed if column not in row), None)
    if lacking is not None:
        there = ", ".join(f"'{column}'" for column in row)
        raise InputError(
            f"{where}: data_layout={name} needs a column '{lacking}' (columns: {there}): choose another layout"
        )
    return replace(layout, columns=needed, doubt=_sure)


def merged_profile(layouts: Mapping[str, Layout]) -> dict[str, Any]:
    """The options that the layouts of all splits ask for; InputError where one run cannot grade them all.

    layouts: of the splits that have answers, the first of which says what the others must go with. "math" also holds
    what "exact" would, so the two go together.
    """
    first = next(iter(layouts), "train")
    profile = dict(layouts[first].profile) if layouts else {}
    said = "the training data" if first == "train" else f"data_{first}"
    for split, layout in layouts.items():
        for option, usual in (("grading.by", "exact"), ("grading.extract", "boxed")):
            ours, theirs = profile.get(option, usual), layout.profile.get(option, usual)
            if {ours, theirs} == {"exact", "math"}:
                profile[option] = "math"
            elif ours != theirs:
                raise InputError(
                    f"data_{split} is laid out as '{layout.name}', which needs {option}={theirs}, and {said} "
                    f"{option}={ours}: measure it by `rekindle eval` instead"
                )
    return profile


def graded_splits(layouts: Mapping[str, Layout], labelled: Callable[[str], bool]) -> dict[str, Layout]:
    """The layouts that say how a run grades: not that of written responses without an answer. labelled: of a split."""
    return {split: layout for split, layout in layouts.items() if not layout.brings or labelled(split)}
