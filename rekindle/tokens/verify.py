"""The verifier of a run: the task's extractor and grader, and the user's reward functions where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rewards import Rewards
from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.tasks.base import Task


@dataclass(frozen=True)
class Verifier:
    """What labels and shapes ask about text.

    With `rewards`, these give the score; success is a score of at least the sum of their positive weights (`Rewarded`).
    """

    task: Task
    rewards: Rewards | None = None

    def extract(self, text: str) -> str | None:
        """The answer that votes."""
        return self.task.extract(text)

    def grade(self, answer: str | None, reference: str | None) -> bool | None:
        """Whether two answers are equal in the task's sense."""
        return self.task.grade(answer, reference)

    def well_formed(self, text: str) -> bool:
        """Whether a response is valid at all (EVOL-RL scores the others -1)."""
        return self.task.well_formed(text)

    def compared(self, text: str) -> str:
        """The part of a response that novelty compares."""
        return self.task.steps(text)

    @property
    def step_delimiters(self) -> tuple[str, ...]:
        """Strings whose presence in a token's text ends a reasoning step."""
        return self.task.step_delimiters

    def verify(self, rollouts: Rollouts) -> Verdicts:
        """Verdicts against the references, or by the user's reward functions. A truncated response is no success.

        Against references it then scores 0; a reward function's score stays as it is. Each function's own rewards go
        into the metrics.
        """
        answers = [self.task.extract(text) for text in rollouts.text]
        if self.rewards is None:
            grades = [self.task.grade(a, e.answer) for a, e in zip(answers, rollouts.example, strict=True)]
            return Verdicts.of(answers, _ended(grades, rollouts), {})
        got = self.rewards(rollouts)
        right = [s if g else None for s, g in zip(got.success.tolist(), got.graded.tolist(), strict=True)]
        verdicts = Verdicts.of(answers, _ended(right, rollouts), {})
        return replace(verdicts, score=got.score, reward=got.score, metrics=got.metrics)

    def truths(self, answers: Sequence[str | None], rollouts: Rollouts) -> torch.Tensor:
        """Hidden correctness [B] of answers, for monitoring only: 1, 0, or NaN where there is no reference."""
        grades = [self.task.grade(a, e.answer) for a, e in zip(answers, rollouts.example, strict=True)]
        return torch.tensor([float("nan") if g is None else float(g) for g in grades], dtype=torch.float64)


def _ended(success: Sequence[bool | None], rollouts: Rollouts) -> list[bool | None]:
    """`success` with False for a truncated response; what is not graded stays so."""
    return [s and f != "length" if s is not None else None for s, f in zip(success, rollouts.finish, strict=True)]
