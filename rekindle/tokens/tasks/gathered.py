"""Rows of one prompt as one example: their responses and rewards one after another, in the order of the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rekindle.errors import InputError
from rekindle.tokens.rollouts import Example

Placed = tuple[str, Example]
"""(place in the data, example)."""


def asked(example: Example) -> tuple[str, str]:
    """What two rows of one prompt share: its text, and its messages where it has any."""
    return example.prompt, repr(example.meta.get("messages"))


def gathered(where: str, rows: Iterable[Placed]) -> list[Placed]:
    """One example a prompt, at the place of its first row, whose id and other columns it has.

    InputError where two rows of a prompt differ in their answer: the example can have but one.
    """
    first: dict[tuple[str, str], Placed] = {}
    scores: dict[tuple[str, str], tuple[list[str], list[float]]] = {}
    for place, example in rows:
        own = asked(example)
        at, one = first.setdefault(own, (place, example))
        if one.answer != example.answer:
            raise InputError(
                f"{where}, {place}: has the prompt of {at} and another 'answer' ({example.answer!r}, there "
                f"{one.answer!r}): make them equal"
            )
        texts, rewards = scores.setdefault(own, ([], []))
        texts.extend(example.meta["completions"])
        rewards.extend(example.meta["rewards"])
    found = []
    for own, (place, example) in first.items():
        texts, rewards = scores[own]
        found.append((place, replace(example, meta={**example.meta, "completions": texts, "rewards": rewards})))
    return found


def refuse_constant(where: str, rewards: Sequence[float]) -> None:
    """InputError where all rewards of a data set are equal."""
    if rewards and min(rewards) == max(rewards):
        raise InputError(
            f"{where}: all {len(rewards)} rewards are {rewards[0]:g}, which tells no response from another: give "
            "rewards that differ, or rows of prompt and completion (data_layout=demonstration) to imitate them all"
        )
