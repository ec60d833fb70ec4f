"""The verifier of a run: the task's extractor and grader or those of the options, and the user's reward functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch

from rekindle.core.ranks import Alone, Ranks
from rekindle.core.types import Metrics
from rekindle.tokens.grading.base import STATUSES, Grade, GradesRows
from rekindle.tokens.grading.grader import Grader, Pair, shared, tried
from rekindle.tokens.grading.memory import Memory
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rewards import Rewarded, Rewards
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.tasks.base import Task

ROWS = 16_384
"""Responses whose grade by a task that grades whole responses is remembered: those of a step or two."""


@dataclass(frozen=True)
class Verifier:
    """What labels and shapes ask about text.

    With `rewards`, these give the score; success is a score of at least the sum of their positive weights (`Rewarded`).
    grader: finds and compares answers instead of the task. ranks: share what needs workers, all ask the same.
    """

    task: Task
    rewards: Rewards | None = None
    grader: Grader | None = None
    ranks: Ranks = field(default_factory=Alone)
    notes: tuple[str, ...] = ()
    """What whoever starts the run should know: references that cannot be compared with."""
    rows: Memory = field(default_factory=lambda: Memory(ROWS), repr=False, compare=False)

    def extract(self, text: str) -> str | None:
        """The answer that votes."""
        return self.task.extract(text) if self.grader is None else self.grader.find(text).answer

    def grade(self, answer: str | None, reference: str | None) -> bool | None:
        """Whether an answer is right by a reference, which is none of the answers."""
        return self.right([(answer, reference)])[0]

    def right(self, pairs: Sequence[Pair]) -> list[bool | None]:
        """Whether the answer of each pair (answer, reference) is right; None where it cannot be compared with."""
        if self.grader is None:
            return [self.task.grade(answer, reference) for answer, reference in pairs]
        return [grade.success for grade in self.grader.compare(pairs, self.ranks)]

    def same(self, pairs: Sequence[Pair]) -> list[bool | None]:
        """Whether the two answers of each pair, both of responses, are equal. No answer is ever a schema or a test."""
        return self.right(pairs) if self.grader is None else self.grader.same(pairs, self.ranks)

    def well_formed(self, text: str) -> bool:
        """Whether a response is valid at all (EVOL-RL scores the others -1)."""
        return self.task.well_formed(text) if self.grader is None else self.extract(text) is not None

    def compared(self, text: str) -> str:
        """The part of a response that novelty compares."""
        return self.task.steps(text)

    @property
    def step_delimiters(self) -> tuple[str, ...]:
        """Strings whose presence in a token's text ends a reasoning step."""
        return self.task.step_delimiters

    def grades(self, rollouts: Rollouts) -> list[Grade]:
        """The grade of each response, whether or not it was cut off; all at once, for workers grade side by side."""
        if isinstance(self.task, GradesRows):
            self.rows.fresh()
            return self._by_task(self.task, rollouts)
        if self.grader is not None:
            self.grader.memory.fresh()
            return self.grader.grade_rows(rollouts.text, rollouts.example, self.ranks)
        answers = [self.task.extract(text) for text in rollouts.text]
        pairs = zip(answers, rollouts.example, strict=True)
        return [Grade.of(self.task.grade(answer, example.answer), answer) for answer, example in pairs]

    def verify(self, rollouts: Rollouts) -> Verdicts:
        """Verdicts against the references, or by the user's reward functions. A truncated response is no success.

        Against references it then scores 0; a reward function's score stays as it is. Each function's own rewards go
        into the metrics, and how grading ended (`grading/STATUS`) where that is more than a comparison of texts.
        """
        if self.rewards is None:
            grades = self.grades(rollouts)
            success = _ended([grade.success for grade in grades], rollouts)
            verdicts = Verdicts.of([grade.extracted for grade in grades], success, {})
            return replace(verdicts, metrics=self._statuses(grades))
        answers = [self.extract(text) for text in rollouts.text]
        got = self._rewarded(self.rewards, rollouts)
        right = [s if g else None for s, g in zip(got.success.tolist(), got.graded.tolist(), strict=True)]
        verdicts = Verdicts.of(answers, _ended(right, rollouts), {})
        return replace(verdicts, score=got.score, reward=got.score, metrics=got.metrics, extra=got.extra)

    def truths(self, answers: Sequence[str | None], rollouts: Rollouts) -> torch.Tensor:
        """Hidden correctness [B] of answers, for monitoring only: 1, 0, or NaN where there is no reference."""
        if isinstance(self.task, GradesRows):
            grades = [grade.success for grade in self._by_task(self.task, rollouts)]
        else:
            grades = self.right([(a, e.answer) for a, e in zip(answers, rollouts.example, strict=True)])
        return torch.tensor([float("nan") if g is None else float(g) for g in grades], dtype=torch.float64)

    def close(self) -> None:
        """End the grader's workers, and whatever the task has to close."""
        if self.grader is not None:
            self.grader.close()
        if isinstance(self.task, Closes):
            self.task.close()

    def _by_task(self, task: GradesRows, rollouts: Rollouts) -> list[Grade]:
        rows = list(zip(rollouts.text, rollouts.example, strict=True))
        keys = [(example.id, text) for text, example in rows]
        new = {key: row for key, row in zip(keys, rows, strict=True) if self.rows.get(key) is None}

        def work(some: list[tuple[str, Example]]) -> list[Grade]:
            return task.grade_rows([text for text, _ in some], [example for _, example in some]) if some else []

        found = dict(zip(new, shared(list(new.values()), work, self.ranks), strict=True)) if new else {}
        grades = [found[key] if key in found else self.rows.get(key) for key in keys]
        for key, grade in found.items():
            self.rows.put(key, grade)
        return [grade for grade in grades if grade is not None]

    def _rewarded(self, rewards: Rewards, rollouts: Rollouts) -> Rewarded:
        """The user's functions see the whole batch once, on the first rank; what they raise is raised on all."""
        if self.ranks.count == 1:
            return rewards(rollouts)
        first = self.ranks.index == 0
        got = self.ranks.exchange(tried(lambda some: rewards(some[0]), [rollouts]) if first else None)[0]
        if isinstance(got, Rewarded):
            return got
        raise got if isinstance(got, Exception) else TypeError("the first rank gave no rewards")

    def _statuses(self, grades: Sequence[Grade]) -> Metrics:
        if self.grader is None and not isinstance(self.task, GradesRows):
            return {}
        count = Counter(grade.status for grade in grades)
        return {f"grading/{status}": (count[status], len(grades)) for status in STATUSES}


@runtime_checkable
class Closes(Protocol):
    """A task that holds processes."""

    def close(self) -> None:
        """End them."""
        ...


def _ended(success: Sequence[bool | None], rollouts: Rollouts) -> list[bool | None]:
    """`success` with False for a truncated response; what is not graded stays so."""
    return [s and f != "length" if s is not None else None for s, f in zip(success, rollouts.finish, strict=True)]
