"""What is in a data set: one pass over its rows, keeping counts, lengths and hashes, never the rows themselves."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.example import Reader
from rekindle.tokens.tasks.layouts import Layout
from rekindle.tokens.tasks.lazy import Rows
from rekindle.tokens.tasks.messages import kind
from rekindle.tokens.tasks.written import BROUGHT

NAMED = 3
"""Rows of each finding that are named."""
SOLUTIONS = ("demonstration", "solution", "completion", "response")
"""Columns that hold a worked solution; the first that a row has is measured."""
_INVISIBLE = {"Cc", "Cf", "Co", "Cn"}
_PLAIN = "\n\t\r"

Read = tuple[str, dict[str, Any], Example | str]
"""(place, columns, the example or the sentence that refuses the row)."""


@dataclass
class Finding:
    """Rows that have something in common: how many, and the first few by their place."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, what: str) -> None:
        """One more."""
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(what)


@dataclass
class Survey:
    """Counts over the rows of one split. characters, tokens: of prompts; solutions: tokens of worked solutions.

    written, written_tokens: column -> lengths of the responses that the rows bring. rewards: their scores. gathers:
    rows of one prompt make one example, so that none repeats another. unstated: rows with a worked solution in which no
    answer is found. prompts: hash of the prompt -> (place, hash of the answer) of its first row. questions: the same
    without system messages -> place. references: (place, answer).
    """

    gathers: bool = False
    rows: int = 0
    columns: dict[str, Counter[str]] = field(default_factory=dict)
    refused: Finding = field(default_factory=Finding)
    duplicates: Finding = field(default_factory=Finding)
    conflicts: Finding = field(default_factory=Finding)
    odd: Finding = field(default_factory=Finding)
    unstated: Finding = field(default_factory=Finding)
    same_id: Finding = field(default_factory=Finding)
    characters: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    solutions: list[int] = field(default_factory=list)
    written: dict[str, list[int]] = field(default_factory=dict)
    written_tokens: dict[str, list[int]] = field(default_factory=dict)
    rewards: list[float] = field(default_factory=list)
    labelled: int = 0
    references: list[tuple[str, str]] = field(default_factory=list)
    prompts: dict[bytes, tuple[str, bytes]] = field(default_factory=dict)
    questions: dict[bytes, str] = field(default_factory=dict)
    ids: set[bytes] = field(default_factory=set)


def survey(
    rows: Iterable[Read],
    encode: Callable[[Example], list[int]] | None = None,
    tokens_of: Callable[[str], int] | None = None,
    layout: Layout | None = None,
) -> Survey:
    """One pass. encode: the tokens of a prompt; tokens_of: how many a text has; None where no model is named.

    layout: of a file, None for a task's rows.
    """
    found = Survey(gathers=layout is not None and layout.gathers)
    for place, columns, example in rows:
        found.rows += 1
        for name, value in columns.items():
            found.columns.setdefault(name, Counter())[kind(value)] += 1
        if isinstance(example, str):
            found.refused.add(example)
            continue
        new = _look(found, place, example)
        if encode is not None and new:
            found.tokens.append(len(encode(example)))
        if layout is not None and layout.brings:
            _weigh(found, example, tokens_of)
        elif tokens_of is not None and (text := _solution(columns)) is not None:
            found.solutions.append(tokens_of(text))
    return found


def _solution(columns: dict[str, Any]) -> str | None:
    return next((columns[name] for name in SOLUTIONS if isinstance(columns.get(name), str)), None)


def _weigh(found: Survey, example: Example, tokens_of: Callable[[str], int] | None) -> None:
    """The responses that a row brings."""
    found.rewards.extend(example.meta.get("rewards", ()))
    for name in (name for name in BROUGHT if name != "rewards" and name in example.meta):
        value = example.meta[name]
        for text in value if isinstance(value, list) else (value,):
            found.written.setdefault(name, []).append(len(text))
            if tokens_of is not None:
                found.written_tokens.setdefault(name, []).append(tokens_of(text))


def _look(found: Survey, place: str, example: Example) -> bool:
    """Everything but tokens. False where the row only adds to an earlier prompt."""
    prompt, answer = _hash(_asked(example)), _hash(str(example.answer))
    found.questions.setdefault(_hash(_asked(example, framed=False)), place)
    if (known := found.prompts.get(prompt)) is not None:
        if known[1] != answer:
            found.conflicts.add(f"{place} and {known[0]}")
        if found.gathers:
            return False
        found.duplicates.add(f"{place} repeats {known[0]}")
    else:
        found.prompts[prompt] = (place, answer)
    found.characters.append(len(example.prompt))
    if (own := _hash(example.id)) in found.ids:
        found.same_id.add(f"{place}: '{example.id}'")
    found.ids.add(own)
    if odd := odd_characters(example.prompt):
        found.odd.add(f"{place}: {', '.join(odd)}")
    if example.answer is None and example.meta.get("answer") is not None:
        found.unstated.add(place)
    if example.answer is not None:
        found.labelled += 1
        found.references.append((place, example.answer))
    return True


def _asked(example: Example, framed: bool = True) -> str:
    """What tells a prompt from another: its text, also where it is the only message; else the conversation.

    framed: messages of the system before the only one of the user count, too.
    """
    messages = example.meta.get("messages")
    if messages is None:
        return example.prompt
    alone = len(messages) == 1 or (not framed and all(message["role"] == "system" for message in messages[:-1]))
    return messages[-1]["content"] if alone else repr(messages)


def odd_characters(text: str) -> list[str]:
    """Names of characters that a reader does not see, and of the sign for what could not be decoded; each once."""
    odd = {c for c in text if c == "\ufffd" or (unicodedata.category(c) in _INVISIBLE and c not in _PLAIN)}
    return [f"U+{ord(c):04X} {unicodedata.name(c, 'unnamed')}" for c in sorted(odd)][:NAMED]


def read_each(rows: Rows, reader: Reader) -> Iterator[Read]:
    """Every row of a data set with the example or the refusal that it gives; a line that holds no row is one too."""
    for index in range(len(rows)):
        try:
            row = rows[index]
        except InputError as error:
            yield str(error), {}, str(error)
            continue
        try:
            yield row.place, row.columns, reader(row)
        except InputError as error:
            yield row.place, row.columns, str(error)


def overlap(train: Survey, heldout: Survey) -> Finding:
    """The held-out prompts that are training prompts too, whether as a text or as a message, by any system message."""
    found = Finding()
    for prompt, place in heldout.questions.items():
        if prompt in train.questions:
            found.add(f"{place} is {train.questions[prompt]} of the training data")
    return found


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
