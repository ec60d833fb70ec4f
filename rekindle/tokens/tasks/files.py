r"""A task from the user's own file: TRL's columns `prompt` and `answer` (or `solution`), or verl's parquet layout.

Answers are taken from the last `\boxed{...}` only and compared by value or text (see `rekindle.tokens.grading`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.grading.boxed import after_think, extract_boxed, find_boxed
from rekindle.tokens.grading.numbers import grade, normalise, reference_text
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.base import Derivation
from rekindle.tokens.tasks.rows import Row, read_rows

SYSTEM_PROMPT = r"Please reason step by step, and put your final answer within \boxed{}."  # Qwen2.5-Math's model card

# No optimiser setting: on a user's own model each method keeps its published ones.
PROFILE: Mapping[str, Any] = MappingProxyType(
    {
        "rollout.prompts": 8,  # EVOL-RL official code
        "rollout.group": 32,  # TTRL and EVOL-RL official code
        "rollout.votes": 64,  # TTRL and EVOL-RL official code
        "rollout.max_tokens": 512,  # TRL's max_completion_length is 256 or 512 by version
        "steps": 100,
    }
)


def load_files(
    path: str | Path, heldout: str | Path | None = None, ood: str | Path | None = None, rewarded: bool = False
) -> FileTask:
    """The task of a data file, with optional evaluation files; InputError (file, line, column, remedy).

    rewarded: reward functions judge the responses, so an answer may be anything (a list, an object).
    """
    return FileTask(path, heldout=heldout, ood=ood, graded=not rewarded)


class FileTask:
    """Prompts of a JSONL, JSON or parquet file; split "train" holds all its rows. Read once, when made.

    Raises InputError naming file, line and column for anything that cannot be used; with `graded`, also an answer that
    no response can be compared with. The answer as the file holds it is in `Example.meta["answer"]`.
    """

    name = "files"
    version = 1
    profile: Mapping[str, Any] = PROFILE
    system_prompt: str | None = SYSTEM_PROMPT
    ways: tuple[str, ...] = ()
    step_delimiters: tuple[str, ...] = ("\n",)

    def __init__(
        self, path: str | Path, heldout: str | Path | None = None, ood: str | Path | None = None, graded: bool = True
    ) -> None:
        given = {"train": path, "heldout": heldout, "ood": ood}
        self.paths = {name: Path(file) for name, file in given.items() if file is not None}
        self._splits = {name: read_examples(file, graded) for name, file in self.paths.items()}

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that files were given for."""
        return tuple(self._splits)

    def split(self, name: str) -> Sequence[Example]:
        """The examples of split `name`; InputError naming the splits there are."""
        if name not in self._splits:
            there = ", ".join(self._splits)
            raise InputError(f"{self.paths['train']}: no split '{name}' (there: {there}): give a file for it")
        return self._splits[name]

    def extract(self, text: str) -> str | None:
        """The normalised content of the last complete box after the reasoning, None where there is none."""
        return normalise(extract_boxed(after_think(text)))

    def grade(self, answer: str | None, reference: str | None) -> bool | None:
        """Whether the answer equals the reference; None only where the reference cannot be graded."""
        return grade(answer, reference)

    def well_formed(self, text: str) -> bool:
        """Whether the response states an answer at all; EVOL-RL's digit rule would refuse multiple choice."""
        return self.extract(text) is not None

    def steps(self, text: str) -> str:
        """The response after the reasoning and before its last box; all of it where it has no box."""
        shown = after_think(text)
        found = find_boxed(shown)
        return shown if found is None else shown[: found[0]]

    def derivation(self, example: Example, text: str) -> Derivation | None:
        """None: free text has no notion of a legal step."""
        return None


def read_examples(path: Path, graded: bool = True) -> tuple[Example, ...]:
    """The examples of one file, in its order; InputError naming file, line and column.

    graded: refuse an answer that cannot be graded; else such a row has no reference.
    """
    examples: list[Example] = []
    places: dict[str, str] = {}
    for row in read_rows(path):
        example = _example(f"{path}, {row.place}", row, graded)
        if example.id in places:
            raise InputError(
                f"{path}, {row.place}: duplicate id '{example.id}', also at {places[example.id]}: make ids unique"
            )
        places[example.id] = row.place
        examples.append(example)
    return tuple(examples)


def _example(where: str, row: Row, graded: bool) -> Example:
    if row.columns.get("prompt") is None:
        there = ", ".join(f"'{name}'" for name in row.columns) or "none"
        raise InputError(f"{where}: no 'prompt' (columns: {there}): add one or rename the column that holds it")
    prompt, messages = _prompt(where, row.columns["prompt"])
    meta = {name: value for name, value in row.columns.items() if name not in ("prompt", "id", "answer")}
    if "messages" in meta:
        raise InputError(f"{where}, column 'messages': the name is taken by a 'prompt' of messages: rename it")
    if messages:
        meta["messages"] = messages
    column, gold = _gold(row.columns)
    if gold is not None:
        meta["answer"] = gold
    answer = reference_text(gold)
    if graded:
        _check_answer(where, row.columns, column, answer)
    return Example(id=_id(where, row), prompt=prompt, answer=answer, meta=meta)


def _id(where: str, row: Row) -> str:
    value = row.columns.get("id")
    if value is None:
        return row.place.replace(" ", "-")
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise InputError(f"{where}, column 'id': must be a text or an integer, not {_kind(value)}: change or drop it")
    return str(value)


def _prompt(where: str, value: object) -> tuple[str, list[dict[str, str]]]:
    where = f"{where}, column 'prompt'"
    if isinstance(value, str):
        return _text(where, value), []
    if not isinstance(value, list):
        raise InputError(f"{where}: must be a text or a list of messages, not {_kind(value)}: change it")
    if not value:
        raise InputError(f"{where}: the list of messages is empty: add a message with role 'user'")
    messages = [_message(f"{where}, message {n}", message) for n, message in enumerate(value, start=1)]
    if messages[-1]["role"] != "user":
        raise InputError(f"{where}: the last message has role '{messages[-1]['role']}': end with role 'user'")
    return messages[-1]["content"], messages


def _message(where: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        raise InputError(f"{where}: must be an object with 'role' and 'content': change it")
    if not isinstance(value.get("content"), str):
        raise InputError(f"{where}: 'content' must be a text, not {_kind(value.get('content'))}: change it")
    return {"role": value["role"], "content": _text(where, value["content"])}


def _text(where: str, text: str) -> str:
    if not text.strip():
        raise InputError(f"{where}: the text is empty: write one or drop the row")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{where}: holds half of a surrogate pair, which no tokenizer can encode: repair the text")
    return text


def _check_answer(where: str, columns: Mapping[str, Any], column: str | None, answer: str | None) -> None:
    if columns.get("answer") is not None and columns.get("solution") is not None:
        raise InputError(f"{where}: both 'answer' and 'solution' are given: keep the one to grade against")
    if column is not None and answer is None:
        value = _gold(columns)[1]
        shown = repr(value) if len(repr(value)) <= 40 else repr(value)[:37] + "..."
        raise InputError(
            f"{where}, column '{column}': {shown} ({_kind(value)}) cannot be graded: use a number, a short text "
            "or null, or score by --reward"
        )


def _gold(columns: Mapping[str, Any]) -> tuple[str | None, object]:
    for name in ("answer", "solution"):
        if columns.get(name) is not None:
            return name, columns[name]
    rule = columns.get("reward_model")
    if isinstance(rule, dict) and rule.get("ground_truth") is not None:
        return "reward_model", rule["ground_truth"]
    return None, None


def _kind(value: object) -> str:
    names = {"NoneType": "null", "dict": "an object", "list": "a list", "bool": "a boolean", "int": "an integer"}
    names |= {"str": "a text", "float": "a number"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")
