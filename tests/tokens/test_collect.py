"""The collector: the order of its parts, votes against trained rows, selection in rounds, columns, one batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from rekindle.errors import GuardStop
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers, Everything, MixedGroups, first_of_group, to_batch
from rekindle.tokens.columns import Steps
from rekindle.tokens.labels import MajorityVote, Verdicts, Verified
from rekindle.tokens.rollouts import Rollouts
from tests.methods.made import VERIFIER, group_rollouts, spoken
from tests.methods.stage import Stage, table_stage
from tests.tiny_models import tokenizer


@dataclass(frozen=True)
class Add:
    """A shape that adds to the score and notes how many rows it saw."""

    amount: float
    factor: float = 1.0

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts, run: Any) -> Verdicts:
        """score * factor + amount."""
        run.seen.append(("shape", len(rollouts), self.amount))
        return replace(verdicts, score=verdicts.score * self.factor + self.amount)


@dataclass(frozen=True)
class Odd:
    """Keep prompts of odd number."""

    max_rounds: int = 3

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts) -> Tensor:
        """Row indices."""
        return (rollouts.group % 2 == 1).nonzero()[:, 0]


@dataclass(frozen=True)
class Length:
    """A column: tokens of a row."""

    name: ClassVar[str] = "length"

    def __call__(self, rollouts: Rollouts, run: Any) -> Tensor:
        """Int [B]."""
        return rollouts.mask.sum(dim=1)


def stage(collect: Answers, **changes: Any) -> Stage:
    return table_stage(grpo.method().replace(collect=collect), **changes)


def test_the_first_of_a_group_goes_by_uid_and_keeps_row_order() -> None:
    rollouts = spoken(["a"] * 6, group=[1, 1, 2, 1, 2, 1])
    rollouts = replace(rollouts, uid=torch.tensor([9, 2, 5, 4, 1, 7]))
    assert first_of_group(rollouts, 1).tolist() == [1, 4]
    assert first_of_group(rollouts, 2).tolist() == [1, 2, 3, 4]
    assert first_of_group(rollouts, 99).tolist() == list(range(6))
    order = torch.tensor([3, 5, 0, 4, 2, 1])
    kept = rollouts.take(order).uid[first_of_group(rollouts.take(order), 2)]
    assert sorted(kept.tolist()) == [1, 2, 4, 5]


def test_labels_and_shapes_see_all_votes_and_the_batch_holds_the_trained_rows() -> None:
    shapes = (Add(1.0), Add(0.5, factor=10.0))
    run = stage(Answers(label=MajorityVote(), shape=shapes))
    batch = run.method.collect(run)
    assert [s for s in run.seen if s[0] == "shape"] == [("shape", 30, 1.0), ("shape", 30, 0.5)], "in order, all 5 x 6"
    rollouts, verdicts, trained = run.seen[-1]
    assert len(rollouts) == 30 and len(batch) == 20 == len(trained)
    assert batch.uid.tolist() == [6 * g + j for g in range(5) for j in range(4)]
    assert torch.equal(batch.score, 10 * (batch.success.double() + 1) + 0.5)
    assert torch.equal(batch.score, verdicts.score[trained])
    assert verdicts.vote == {0: "5", 1: "5", 2: "5", 3: None, 4: "5"}


def test_a_batch_holds_what_was_sampled_and_scored() -> None:
    run = stage(Answers(columns=(Length(),)), max_tokens=40)
    batch = run.method.collect(run)
    rollouts = run.seen[0][0]
    assert torch.equal(batch.action, rollouts.ids) and torch.equal(batch.mask, rollouts.mask)
    assert torch.equal(batch.column("logp_sampled"), rollouts.logp_sampled)
    assert torch.equal(batch.column("length"), rollouts.mask.sum(dim=1))
    assert batch.column("limit").tolist() == [40] * len(batch)
    assert torch.equal(batch.logp_old, run.policy(batch).logp), "the training code's own score at these weights"
    assert batch.graded.tolist() == [True] * 16 + [False] * 4 and batch.key == run.key


def test_selection_asks_for_more_prompts_until_there_are_enough() -> None:
    run = stage(Answers(select=Odd()), prompts_per_step=4)
    batch = run.method.collect(run)
    assert batch.group.unique().tolist() == [1, 3, 5, 7] and run.drawn == 8 and len(run.seen) == 2
    run = stage(Answers(select=Odd()), prompts_per_step=5)
    assert run.method.collect(run).group.unique().tolist() == [1, 3, 5, 7, 9] and run.drawn == 10


def test_too_few_prompts_after_all_rounds_stop_the_run() -> None:
    run = stage(Answers(select=Odd(max_rounds=1)), prompts_per_step=4)
    with pytest.raises(GuardStop, match=r"2 of 4 prompts .* in 1 rounds.*max_rounds"):
        run.method.collect(run)


def test_selection_sees_only_rows_that_could_be_trained_on() -> None:
    texts = ["a=5", "a=5", "a=7", "a=7"]
    run = stage(
        Answers(select=MixedGroups(max_rounds=2)),
        source=lambda g: replace(spoken(texts, [g] * 4, truth="5"), uid=torch.arange(4) + 4 * g),
        group_size=2,
        prompts_per_step=1,
    )
    with pytest.raises(GuardStop):
        run.method.collect(run)


def test_mixed_groups() -> None:
    rollouts = spoken([f"a={c}" for c in "55575777"], group=[0, 0, 1, 1, 2, 2, 3, 3], truth="5")
    verdicts = Verified()(rollouts, VERIFIER)
    assert MixedGroups()(rollouts, verdicts).tolist() == [2, 3, 4, 5]
    graded = torch.tensor([True] * 2 + [True, False] + [True] * 4)
    assert MixedGroups()(rollouts, replace(verdicts, graded=graded)).tolist() == [4, 5], "one graded row is not mixed"
    shaped = replace(verdicts, score=torch.arange(8).double())
    assert MixedGroups()(rollouts, shaped).tolist() == [2, 3, 4, 5], "by success, not by the shaped score"
    rewarded = replace(verdicts, reward=torch.tensor([0.5, 0.4, 1, 1, 0, 1, 0.2, 0.2]).double())
    assert MixedGroups()(rollouts, rewarded).tolist() == [0, 1, 2, 3, 4, 5], "or by unequal rewards"
    partly = replace(rewarded, graded=torch.tensor([True, False] + [True] * 6))
    assert MixedGroups()(rollouts, partly).tolist() == [2, 3, 4, 5]
    assert Everything()(rollouts, verdicts).tolist() == list(range(8))


def test_rounds_of_unequal_width_are_padded() -> None:
    def source(g: int) -> Rollouts:
        rows = spoken(["a=5", "a=7"], [g] * 2, truth="5", lengths=[g + 1, 1])
        return replace(rows, uid=torch.arange(2) + 2 * g)

    run = stage(Answers(select=Odd()), source=source, prompts_per_step=3, group_size=2)
    batch = run.method.collect(run)
    assert batch.mask.sum(dim=1).tolist() == [2, 1, 4, 1, 6, 1] and batch.mask.shape[1] == 6
    assert (batch.action[~batch.mask] == 0).all() and (batch.column("logp_sampled")[~batch.mask] == 0).all()


def test_steps_end_with_tokens_whose_text_holds_a_delimiter() -> None:
    rollouts = spoken(["x"] * 2, lengths=[6, 3])
    ids = torch.tensor([[3, 16, 16, 4, 16, 2], [16, 3, 2, 16, 16, 16]])
    run = SimpleNamespace(tokenizer=tokenizer(), verifier=VERIFIER)
    got = Steps()(replace(rollouts, ids=ids), run)
    assert got.tolist() == [[0, 0, 0, 1, 1, 2], [0, 0, 0, -1, -1, -1]]
    none = Steps()(replace(rollouts, ids=ids, mask=torch.zeros_like(rollouts.mask)), run)
    assert (none == -1).all()


def test_to_batch_takes_verdicts_as_they_are() -> None:
    rollouts = group_rollouts(0)
    verdicts = Verified()(rollouts, VERIFIER)
    batch = to_batch(rollouts, verdicts, torch.tensor(3))
    for got, want in (
        (batch.success, verdicts.success),
        (batch.score, verdicts.score),
        (batch.graded, verdicts.graded),
    ):
        assert torch.equal(got, want)
    assert torch.equal(batch.uid, rollouts.uid) and torch.equal(batch.group, rollouts.group)
    assert Answers().replace(label=MajorityVote()).label == MajorityVote()
