"""Labels: which responses of a group are successes. Verified against a reference, or by a vote among the responses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekindle.core.types import Metrics
from rekindle.tokens.rollouts import Rollouts


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdicts:
    """What a label says of each rollout. `answer` is the extracted answer, `vote` the pseudo-label of its group.

    success [B]; graded [B] (False only where the reference cannot be graded); score [B] float64, shaped later.
    reward [B]: what the user's reward functions gave, never shaped; None where there are none. metrics: over all rows
    that were labelled, whichever are taken. extra: columns that reward functions logged, for the record only.
    """

    answer: Sequence[str | None]
    success: Bool[Tensor, " B"]
    graded: Bool[Tensor, " B"]
    score: Float[Tensor, " B"]
    reward: Float[Tensor, " B"] | None = None
    vote: Mapping[int, str | None] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=dict)
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def take(self, rows: Tensor) -> Verdicts:
        """The rows `rows`, in that order."""
        return replace(
            self,
            answer=[self.answer[i] for i in rows.tolist()],
            success=self.success[rows],
            graded=self.graded[rows],
            score=self.score[rows],
            reward=None if self.reward is None else self.reward[rows],
            extra={name: [values[i] for i in rows.tolist()] for name, values in self.extra.items()},
        )

    @staticmethod
    def of(answer: Sequence[str | None], success: Sequence[bool | None], vote: Mapping[int, str | None]) -> Verdicts:
        """Verdicts whose score is 1 for a success and 0 otherwise; None in `success` means ungraded."""
        right = torch.tensor([bool(s) for s in success], dtype=torch.bool)
        graded = torch.tensor([s is not None for s in success], dtype=torch.bool)
        return Verdicts(answer=answer, success=right, graded=graded, score=right.double(), vote=vote)


@runtime_checkable
class Label(Protocol):
    """(Rollouts, verifier) -> Verdicts. `needs_truth`: reads references. `votes`: may use more samples than train."""

    needs_truth: ClassVar[bool]
    votes: ClassVar[bool]

    def __call__(self, rollouts: Rollouts, verifier: Any) -> Verdicts:
        """The verdicts, scores not yet shaped."""
        ...


@dataclass(frozen=True)
class Verified:
    """Success is what the verifier (the task's grader, or the user's reward functions) says."""

    needs_truth: ClassVar[bool] = True
    votes: ClassVar[bool] = False
    gives: ClassVar[tuple[str, ...]] = ("a success by correctness",)

    def __call__(self, rollouts: Rollouts, verifier: Any) -> Verdicts:
        """The verifier's verdicts: a truncated response is no success."""
        return verifier.verify(rollouts)


@dataclass(frozen=True)
class Answered:
    """Success is that an answer could be extracted. Reads no reference and no vote: certainty rewards score later."""

    needs_truth: ClassVar[bool] = False
    votes: ClassVar[bool] = False
    gives: ClassVar[tuple[str, ...]] = ("a success that is no correctness",)

    def __call__(self, rollouts: Rollouts, verifier: Any) -> Verdicts:
        """Verdicts over all rows."""
        answers = [verifier.extract(text) for text in rollouts.text]
        return Verdicts.of(answers, [bool(a) for a in answers], {})


@dataclass(frozen=True)
class MajorityVote:
    """Success is agreement with the most frequent answer of the group (TTRL, arXiv 2504.16084). Reads no reference.

    Unparsed answers never vote. Ties go to the smallest string, so that row order cannot matter (the official code
    takes the first seen). Nothing extracted: every row fails. Agreement is the task's own equality of answers.
    by: "string" counts equal strings; "equality" counts answers that the task's grader holds equal as one. margin: a
    group abstains (no label, every row fails) where the lead over the second answer is a smaller share of its samples.
    """

    by: Literal["string", "equality"] = "string"
    margin: float = 0.0
    needs_truth: ClassVar[bool] = False
    votes: ClassVar[bool] = True
    gives: ClassVar[tuple[str, ...]] = ("a success by correctness", "a vote")

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 1:
            raise ValueError(f"the margin of a vote is a share from 0 to 1, not {self.margin}")

    def __call__(self, rollouts: Rollouts, verifier: Any) -> Verdicts:
        """Verdicts over all rows; `vote` holds the label of each group."""
        answers = [verifier.extract(text) for text in rollouts.text]
        groups = rollouts.group.tolist()
        heard = {g: [a for a, h in zip(answers, groups, strict=True) if h == g] for g in set(groups)}
        vote = {g: self.label(said, verifier) for g, said in heard.items()}
        success = agreement(verifier, [(a, vote[g]) for a, g in zip(answers, groups, strict=True)])
        return Verdicts.of(answers, success, vote)

    def label(self, answers: Sequence[str | None], verifier: Any) -> str | None:
        """The label of one group; None where nothing was extracted or the lead is too small."""
        named = classes(answers, verifier) if self.by == "equality" else answers
        counts = Counter(a for a in named if a).most_common(2)
        lead = counts[0][1] - (counts[1][1] if len(counts) > 1 else 0) if counts else 0
        return majority(named) if counts and lead >= self.margin * len(answers) else None


def classes(answers: Sequence[str | None], verifier: Any) -> list[str | None]:
    """Each answer by the name of its class: the smallest string that it equals, directly or through others.

    Equality by a grader is not transitive, so classes are joined (union-find) whatever the row order.
    """
    distinct = sorted({a for a in answers if a})
    name = {a: a for a in distinct}
    pairs = [(a, b) for i, a in enumerate(distinct) for b in distinct[:i]]
    for (a, b), equal in zip(pairs, agreement(verifier, pairs), strict=True):
        if equal and name[a] != name[b]:
            low, high = sorted((name[a], name[b]))
            name |= {c: low for c in distinct if name[c] == high}
    return [name[a] if a else None for a in answers]


def majority(answers: Sequence[str | None]) -> str | None:
    """The most frequent answer, the smallest string among ties; None where no answer was extracted."""
    counts = Counter(a for a in answers if a)
    if not counts:
        return None
    return min(counts, key=lambda a: (-counts[a], a))


def agrees(verifier: Any, answer: str | None, label: str | None) -> bool:
    """Whether an answer equals a label; equal strings need no grader, and nothing equals a missing label."""
    return agreement(verifier, [(answer, label)])[0]


@runtime_checkable
class ComparesMany(Protocol):
    """A verifier that compares many pairs at once, because some need a worker."""

    def same(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[bool | None]:
        """Whether the two answers of each pair are equal."""
        ...


def agreement(verifier: Any, pairs: Sequence[tuple[str | None, str | None]]) -> list[bool]:
    """`agrees` of each pair (answer, label), the grader asked once for each that differs in text."""
    asked = list(dict.fromkeys((a, b) for a, b in pairs if a and b and a != b))
    if isinstance(verifier, ComparesMany):
        found = dict(zip(asked, verifier.same(asked), strict=True))
    else:
        found = {(a, b): verifier.grade(a, b) for a, b in asked}
    return [bool(a) and bool(b) and (a == b or found[a, b] is True) for a, b in pairs]
