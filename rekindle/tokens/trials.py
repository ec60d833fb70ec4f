"""What a candidate is worth: the mean score of its responses to prompts that all candidates answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from rekindle.core.ranks import Alone
from rekindle.tokens.collect import InOrder
from rekindle.tokens.labels import Label, Verdicts, Verified
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.slots import Prompts, Shape


@dataclass(frozen=True, kw_only=True)
class Responses:
    """One response of each candidate to each prompt.

    `prompts` chooses what a generation answers, `label` says what a success is, `shape` parts turn successes into
    scores. greedy: the most likely response, else one drawn with the numbers that all candidates share.
    """

    prompts: Prompts = field(default_factory=InOrder)
    label: Label = field(default_factory=Verified)
    shape: tuple[Shape, ...] = ()
    greedy: bool = True

    def examples(self, run: Any) -> Sequence[Example]:
        """The next prompts. What the mean answers to them, before it has seen them, is the run's record of the step."""
        examples = self.prompts(run, run.prompts_per_step)
        rollouts = run.greedy(examples)
        # No row is trained on: groups of one response would all count as dead.
        run.observe(rollouts, self._judged(run, rollouts, run.verifier), torch.zeros(0, dtype=torch.int64))
        return examples

    def __call__(self, run: Any, examples: Sequence[Example]) -> float:
        """The mean score over graded responses; nan where there are none."""
        rollouts = run.tried(examples, self.greedy)
        verdicts = self._judged(run, rollouts, replace(run.verifier, ranks=Alone()))  # each rank has its candidate
        return verdicts.score[verdicts.graded].mean().item()

    def _judged(self, run: Any, rollouts: Rollouts, verifier: Any) -> Verdicts:
        verdicts = self.label(rollouts, verifier)
        for shape in self.shape:
            verdicts = shape(rollouts, verdicts, run)
        return verdicts
