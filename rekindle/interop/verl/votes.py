"""A method's own label and shapes on the texts of whole groups: EVOL-RL's bands, TTRL's vote, for other trainers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rekindle import methods
from rekindle.errors import InputError, unknown
from rekindle.tokens.collect import Answers, InOrder, Once
from rekindle.tokens.embed import Embed, HashedNgrams
from rekindle.tokens.grading.boxed import after_think, find_boxed
from rekindle.tokens.grading.extract import RULES
from rekindle.tokens.grading.grader import KINDS, Grader
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts


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


@dataclass(frozen=True)
class Desk:
    """All of a run that a shape may read here."""

    verifier: Reader
    embed: Embed


@dataclass(frozen=True)
class Votes:
    """The verdicts of a method on groups of texts: its `label`, then its `shape` parts, as `rekindle train` calls them.

    Callable from any thread. Label-free: no reference is taken.
    """

    collect: Answers
    desk: Desk

    def __call__(self, texts: Sequence[str], group: Sequence[int]) -> Verdicts:
        """The verdicts of all rows, in their order. group: a number a row, one for each prompt."""
        rows = spoken(texts, group)
        verdicts = self.collect.label(rows, self.desk.verifier)
        for shape in self.collect.shape:
            verdicts = shape(rows, verdicts, self.desk)
        return verdicts


def votes_of(method: str, by: str = "exact", extract: str = "boxed") -> Votes:
    """The votes of the method `method`, answers found by the rule `extract` and compared by `by` (see `grading`).

    Novelty is that of hashed n-grams. InputError for a name that there is not, for a method whose label reads
    references, and for one whose scores need more than texts.
    """
    record = methods.load(method).method()
    collect = vars(record).get("collect")
    if not isinstance(collect, Answers) or not (collect.prompts == InOrder() and collect.draw == Once()):
        raise InputError(f"{method} scores other rows than the responses to a prompt: name ttrl, evol_rl or srt")
    if collect.label.needs_truth:
        raise InputError(f"{method} reads references, so verl's own reward function scores it: name ttrl or evol_rl")
    for what, given, known in (("grading.by", by, tuple(KINDS)), ("grading.extract", extract, tuple(RULES))):
        if given not in known:
            raise unknown(what, given, known)
    made = Votes(collect, Desk(Reader(Grader(by, extract)), HashedNgrams()))
    try:
        replace(made, desk=Desk(Reader(Grader("exact", "whole")), HashedNgrams()))(["1", "2", "1 2"], [0, 0, 0])
    except AttributeError as error:
        raise InputError(f"{method} cannot score texts alone ({error}): name ttrl, evol_rl or srt") from error
    return made


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


def told(verdicts: Verdicts, group: Sequence[int]) -> list[dict[str, Any]]:
    """Of each row what verl keeps beside its score: `answer` and `label` ("" for none), and `success` as 0 or 1."""
    rows = zip(verdicts.answer, group, verdicts.success.tolist(), strict=True)
    return [
        {"answer": answer or "", "label": verdicts.vote.get(number) or "", "success": float(right)}
        for answer, number, right in rows
    ]
