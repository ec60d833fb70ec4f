"""Two views of one question, the question and its paraphrase: for labels that one view gives the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rekindle.errors import InputError
from rekindle.tokens.rollouts import Example

MARK = "~"
"""What the id of a paraphrase ends with, after the id of its question."""


@dataclass(frozen=True)
class Paraphrased:
    """The next questions, each followed by its paraphrase, which has the same answer."""

    example_columns: ClassVar[tuple[str, ...]] = ("paraphrase",)

    def __call__(self, run: Any, count: int) -> Sequence[Example]:
        """`count` examples, one more where it is odd; InputError for a question without a paraphrase."""
        return [view for question in run.next_examples((count + 1) // 2) for view in (question, paraphrase(question))]


def paraphrase(question: Example) -> Example:
    """The other view of a question, from its column `paraphrase`; InputError where there is none."""
    text = question.meta.get("paraphrase")
    if not isinstance(text, str) or not text:
        raise InputError(f"prompt '{question.id}' has no 'paraphrase': add that column to the data")
    meta = {name: value for name, value in question.meta.items() if name not in ("paraphrase", "messages")}
    return replace(question, id=question.id + MARK, prompt=text, meta=meta)


def partners(names: Mapping[int, str]) -> dict[int, int]:
    """Group -> the group with the other view of its question, given the prompt id of each group.

    Where a question was visited more than once, its n-th visit goes with the n-th of its paraphrase.
    """
    places: dict[str, list[int]] = {}
    for group in sorted(names):
        places.setdefault(names[group], []).append(group)
    pairs = [pair for name in places for pair in zip(places[name], places.get(name + MARK, []), strict=False)]
    return {a: b for one, two in pairs for a, b in ((one, two), (two, one))}
