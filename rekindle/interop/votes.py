"""A label and shapes on the texts of whole groups: what rewards for TRL and for verl have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rekindle.tokens.embed import Embed
from rekindle.tokens.grading.boxed import after_think, find_boxed
from rekindle.tokens.grading.grader import Grader
from rekindle.tokens.labels import Label, Verdicts
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.slots import Shape


@dataclass(frozen=True)
class Reader:
    """What labels and shapes ask about a text, by a grader: as a run's verifier of a data file answers."""

    grader: Grader

    def extract(self, text: str) -> str | None:
        """The answer that votes."""
        return self.grader.find(text).answer

    def same(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[bool | None]:
        """Whether the two answers of each pair are equal."""
        return self.grader.same(pairs)

    def well_formed(self, text: str) -> bool:
        """Whether the text states an answer at all."""
        return self.extract(text) is not None

    def compared(self, text: str) -> str:
        """What novelty compares: the response after the reasoning and before its last box."""
        shown = after_think(text)
        found = find_boxed(shown)
        return shown if found is None else shown[: found[0]]


def boxed() -> Reader:
    r"""Answers in the last `\boxed{...}` after the reasoning, compared by value, as in a data file's task."""
    return Reader(Grader("exact", "boxed"))


@dataclass(frozen=True)
class Desk:
    """All of a run that a shape may read here. verifier: a `Reader`, or whatever answers the same questions."""

    verifier: Any
    embed: Embed


def judged(label: Label, shape: Sequence[Shape], desk: Desk, texts: Sequence[str], group: Sequence[int]) -> Verdicts:
    """The verdicts of all texts, in their order: the label's, then the shapes', as `rekindle train` calls them.

    group: a number a text, one for each prompt.
    """
    rows = spoken(texts, group)
    verdicts = label(rows, desk.verifier)
    for part in shape:
        verdicts = part(rows, verdicts, desk)
    return verdicts


def spoken(texts: Sequence[str], group: Sequence[int]) -> Rollouts:
    """Rollouts of which only texts and groups are known: one token each, nothing cut off."""
    count, zeros = len(texts), torch.zeros(len(texts), 1)
    return Rollouts(
        example=[Example(str(number), "") for number in group],
        prompt=PromptRows(((),) * count),
        ids=zeros.long(),
        mask=torch.ones(count, 1, dtype=torch.bool),
        logp=None,
        logp_sampled=zeros,
        entropy=None,
        text=list(texts),
        finish=["eos"] * count,
        group=torch.tensor(list(group), dtype=torch.int64),
        uid=torch.arange(count),
    )
