"""From one row of a data set to an `Example`, by its layout; each unusable row gets its sentence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.grading.numbers import reference_text
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.layouts import FOREIGN, Layout
from rekindle.tokens.tasks.rows import Row
from rekindle.tokens.tasks.shapes import Columns, value_at


@dataclass(frozen=True)
class Reader:
    """Row -> Example. where: the data set, for sentences. graded: refuse an answer that cannot be graded.

    written: columns of which one holds the reference where that is no short text (a JSON schema, tests); it, or else
    the answer, is kept as JSON text. None: references are short answers.
    by_place: name examples by their place, since ids of rows that are not all read cannot be known to be unique.
    """

    where: str
    layout: Layout
    graded: bool = True
    written: tuple[str, ...] | None = None
    by_place: bool = False

    def __call__(self, row: Row) -> Example:
        """The example; InputError naming data set, place and column."""
        where = f"{self.where}, {row.place}"
        lacking = [name for name in self.layout.columns if name not in row.columns and name != self.layout.prompt]
        columns = row.columns if lacking else self._changed(where, row.columns)
        value = value_at(columns, self.layout.prompt)
        if value is None:
            raise self._absent(where, row, lacking)
        prompt, messages = read_prompt(f"{where}, column '{self.layout.prompt}'", value)
        meta = {name: value for name, value in columns.items() if name not in ("prompt", "answer")}
        foreign = meta.pop("messages", None)
        if foreign is not None and self.layout.prompt != "messages":
            meta[FOREIGN] = foreign
        if messages:
            meta["messages"] = messages
        column, gold = self.gold(columns)
        if gold is not None:
            meta["answer"] = gold
        return Example(self._id(where, row, columns), prompt, self._answer(where, columns, column, gold), meta)

    def _absent(self, where: str, row: Row, lacking: list[str]) -> InputError:
        """The sentence for a row without a prompt, or without what its prompt is made of."""
        made = self.layout.made and bool(lacking)
        name = lacking[0] if made else self.layout.prompt
        there = ", ".join(f"'{column}'" for column in row.columns) or "none"
        remedy = "add one" + (
            " or drop the row" if made else ", rename the column that holds it, or name it by data_prompt"
        )
        return InputError(f"{where}: no '{name}' (columns: {there}): {remedy}")

    def _changed(self, where: str, columns: Columns) -> Columns:
        try:
            return self.layout.change(columns)
        except InputError as error:
            raise InputError(f"{where}, {error}") from None

    def gold(self, columns: Columns) -> tuple[str | None, Any]:
        """(column, value) of the reference, (None, None) where the row has none."""
        rule = value_at(columns, "reward_model.ground_truth")
        if self.layout.answer is not None:
            gold = value_at(columns, self.layout.answer)
            return (None, None) if gold is None else (self.layout.answer.partition(".")[0], gold)
        if rule is not None:
            return "reward_model", rule
        name = next((name for name in ("answer", "solution") if columns.get(name) is not None), None)
        return (None, None) if name is None else (name, columns[name])

    def _answer(self, where: str, columns: Columns, column: str | None, gold: Any) -> str | None:
        if self.written is not None:
            gold = next((columns[name] for name in self.written if columns.get(name) is not None), gold)
            return gold if isinstance(gold, str) or gold is None else json.dumps(gold, ensure_ascii=False)
        if self.graded and (why := self.layout.doubt(columns)) is not None:
            raise InputError(f"{where}, column '{column}': {why}")
        if isinstance(gold, str) and not self.layout.stated(gold):
            return None
        answer = reference_text(gold)
        if self.graded and column is not None and answer is None:
            shown = repr(gold) if len(repr(gold)) <= 40 else repr(gold)[:37] + "..."
            raise InputError(
                f"{where}, column '{column}': {shown} ({kind(gold)}) cannot be graded: use a number, a short text "
                "or null, or score by --reward"
            )
        return answer

    def _id(self, where: str, row: Row, columns: Columns) -> str:
        value = columns.get(self.layout.id)
        value = columns.get("id") if value is None else value
        if value is None or self.by_place:
            return row.place.replace(", ", ":").replace(" ", "-")
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            raise InputError(
                f"{where}, column 'id': must be a text or an integer, not {kind(value)}: change or drop it"
            )
        return str(value)


def read_prompt(where: str, value: object) -> tuple[str, list[dict[str, str]]]:
    """(prompt, messages) of a text or a conversation that ends with the user's turn; InputError naming `where`."""
    if isinstance(value, str):
        return _text(where, value), []
    if not isinstance(value, list):
        raise InputError(f"{where}: must be a text or a list of messages, not {kind(value)}: change it")
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
        raise InputError(f"{where}: 'content' must be a text, not {kind(value.get('content'))}: change it")
    return {"role": value["role"], "content": _text(where, value["content"])}


def _text(where: str, text: str) -> str:
    if not text.strip():
        raise InputError(f"{where}: the text is empty: write one or drop the row")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{where}: holds half of a surrogate pair, which no tokenizer can encode: repair the text")
    return text


def kind(value: object) -> str:
    """What a value is, in words."""
    names = {"NoneType": "null", "dict": "an object", "list": "a list", "bool": "a boolean", "int": "an integer"}
    names |= {"str": "a text", "float": "a number"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")
