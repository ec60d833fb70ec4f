"""A method's own label and shapes on the texts of whole groups: EVOL-RL's bands, TTRL's vote, for other trainers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rekindle import methods
from rekindle.errors import InputError, unknown
from rekindle.interop.votes import Desk, Reader, judged
from rekindle.tokens.collect import Answers, InOrder, Once
from rekindle.tokens.embed import HashedNgrams
from rekindle.tokens.grading.extract import RULES
from rekindle.tokens.grading.grader import KINDS, Grader
from rekindle.tokens.labels import Verdicts


@dataclass(frozen=True)
class Votes:
    """The verdicts of a method on groups of texts: its `label`, then its `shape` parts, as `rekindle train` calls them.

    Callable from any thread. Label-free: no reference is taken.
    """

    collect: Answers
    desk: Desk

    def __call__(self, texts: Sequence[str], group: Sequence[int]) -> Verdicts:
        """The verdicts of all rows, in their order. group: a number a row, one for each prompt."""
        return judged(self.collect.label, self.collect.shape, self.desk, texts, group)


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


def told(verdicts: Verdicts, group: Sequence[int]) -> list[dict[str, Any]]:
    """Of each row what verl keeps beside its score: `answer` and `label` ("" for none), and `success` as 0 or 1."""
    rows = zip(verdicts.answer, group, verdicts.success.tolist(), strict=True)
    return [
        {"answer": answer or "", "label": verdicts.vote.get(number) or "", "success": float(right)}
        for answer, number, right in rows
    ]
