"""From one row of a data set to an `Example`, by its layout; each unusable row gets its sentence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.grading.numbers import reference_text
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.layouts import FOREIGN, Layout
from rekindle.tokens.tasks.messages import kind, read_prompt
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
        if value is None or (lacking and self.layout.brings):
            raise self._absent(where, row, lacking)
        prompt, messages = read_prompt(f"{where}, column '{self.layout.prompt}'", value)
        own = ("prompt", "answer", self.layout.prompt) if self.layout.brings else ("prompt", "answer")
        meta = {name: value for name, value in columns.items() if name not in own}
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
        made = (self.layout.made or self.layout.brings) and bool(lacking)
        name = lacking[0] if made else self.layout.prompt
        there = ", ".join(f"'{column}'" for column in row.columns) or "none"
        drop = " or drop the row" + (", or set data_layout=trl to read prompts alone" if self.layout.brings else "")
        remedy = "add one" + (drop if made else ", rename the column that holds it, or name it by data_prompt")
        return InputError(f"{where}: no '{name}' (columns: {there}): {remedy}")

    def _changed(self, where: str, columns: Columns) -> Columns:
        told = {"prompt": value_at(columns, self.layout.prompt)} if self.layout.brings else {}
        try:
            changed = self.layout.change({**columns, **told})
            return {**changed, self.layout.prompt: changed["prompt"]} if told else changed
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
