"""Offline rows: responses that the data brings along, with the score of each, in the place of samples.

Each part here is the `draw` of an `Answers` whose label is `Given`: the method learns from what is written and the
policy is asked for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from rekindle.errors import InputError
from rekindle.tokens.demonstrations import FINISH, text_ids
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.slots import Judge

Written = tuple[str, float]
"""A response that the data brings, and its score."""


@runtime_checkable
class BringsRows(Protocol):
    """A draw that takes its responses from the data."""

    def rows(self, example: Example) -> Sequence[Written]:
        """The responses of an example, in a fixed order."""
        ...


@dataclass(frozen=True)
class Demonstrations:
    """One response a prompt, the column `demonstration`, with score 1."""

    example_columns: ClassVar[tuple[str, ...]] = ("demonstration",)
    gives: ClassVar[tuple[str, ...]] = ("rows that nobody sampled",)

    def rows(self, example: Example) -> Sequence[Written]:
        """The demonstration."""
        return [(example.meta["demonstration"], 1.0)]

    def __call__(self, run: Any, examples: Sequence[Example], judge: Judge) -> Rollouts:
        """One row a prompt."""
        return run.recorded([(example, self.rows(example)) for example in examples])


@dataclass(frozen=True)
class ChosenRejected:
    """Two responses a prompt: `chosen` with score 1, then `rejected` with score 0."""

    example_columns: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    gives: ClassVar[tuple[str, ...]] = ("rows that nobody sampled",)

    def rows(self, example: Example) -> Sequence[Written]:
        """The pair, the better one first."""
        return [(example.meta["chosen"], 1.0), (example.meta["rejected"], 0.0)]

    def __call__(self, run: Any, examples: Sequence[Example], judge: Judge) -> Rollouts:
        """Two rows a prompt."""
        return run.recorded([(example, self.rows(example)) for example in examples])


@dataclass(frozen=True)
class ScoredCompletions:
    """Every response in the column `completions`, with its score in `rewards`."""

    example_columns: ClassVar[tuple[str, ...]] = ("completions", "rewards")
    gives: ClassVar[tuple[str, ...]] = ("rows that nobody sampled",)

    def rows(self, example: Example) -> Sequence[Written]:
        """The completions in the data's order."""
        return list(zip(example.meta["completions"], map(float, example.meta["rewards"]), strict=True))

    def __call__(self, run: Any, examples: Sequence[Example], judge: Judge) -> Rollouts:
        """As many rows a prompt as it has completions."""
        return run.recorded([(example, self.rows(example)) for example in examples])


@dataclass(frozen=True)
class Given:
    """The score that came with each row; a score above 0 is a success. Nothing is verified and nothing votes."""

    needs_truth: ClassVar[bool] = False
    votes: ClassVar[bool] = False
    gives: ClassVar[tuple[str, ...]] = ("a success that is no correctness",)

    def __call__(self, rollouts: Rollouts, verifier: Any) -> Verdicts:
        """Verdicts over all rows; InputError where a row was sampled and so has no score."""
        if rollouts.given is None:
            raise InputError("the label Given scores rows that the data brings, and these were sampled: use Verified")
        answers = [verifier.extract(text) for text in rollouts.text]
        right = rollouts.given > 0
        graded = torch.ones_like(right)
        return Verdicts(answer=answers, success=right, graded=graded, score=rollouts.given.double())


@dataclass(frozen=True)
class AllRows:
    """Every row of a prompt is trained on, however many it has."""

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts, size: int) -> Int[Tensor, " N"]:
        """All row indices."""
        return torch.arange(len(rollouts))


def as_rollouts(
    rows: Sequence[tuple[Example, Sequence[Written]]],
    prompts: Sequence[tuple[int, ...]],
    run: Any,
    first_group: int,
    first_uid: int,
) -> Rollouts:
    """The rows of each example as one group; `prompts` holds the examples' token ids. Log-probs are unknown (0)."""
    flat = [(i, example, *written) for i, (example, texts) in enumerate(rows) for written in texts]
    how = {"tokenizer": run.tokenizer, "max_tokens": run.max_tokens}
    tokens = [torch.tensor(text_ids(example, "response", text, **how)) for _, example, text, _ in flat]
    ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in tokens])[:, None]
    return Rollouts(
        example=[example for _, example, _, _ in flat],
        prompt=PromptRows(tuple(tuple(prompts[i]) for i, _, _, _ in flat)),
        ids=ids,
        mask=mask,
        logp=None,
        logp_sampled=torch.zeros(ids.shape),
        entropy=None,
        text=[text for _, _, text, _ in flat],
        finish=[FINISH] * len(flat),
        group=torch.tensor([first_group + i for i, _, _, _ in flat]),
        uid=torch.arange(first_uid, first_uid + len(flat)),
        given=torch.tensor([score for *_, score in flat], dtype=torch.float64),
    )
