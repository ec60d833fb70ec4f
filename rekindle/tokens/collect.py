"""`Answers`: one answer a rollout. Prompts -> samples -> label -> shape -> select -> the batch that is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from rekindle.core.groups import group_constant
from rekindle.core.types import Batch
from rekindle.errors import GuardStop
from rekindle.tokens.labels import Label, Verdicts, Verified
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.slots import Column, Draw, Judge, LeavesRoom, Pick, Prompts, Select, Shape, TokenRun


@dataclass(frozen=True)
class InOrder:
    """The next prompts of an endless stream, shuffled every epoch."""

    def __call__(self, run: Any, count: int) -> Sequence[Example]:
        """`count` examples."""
        return run.next_examples(count)


@dataclass(frozen=True)
class Once:
    """The same number of samples for every prompt."""

    def __call__(self, run: Any, examples: Sequence[Example], judge: Judge) -> Rollouts:
        """Responses to every example."""
        return run.sample(examples)


@dataclass(frozen=True)
class FirstOfGroup:
    """The G samples of a prompt with the smallest uids."""

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts, size: int) -> Int[Tensor, " N"]:
        """Row indices, in row order."""
        return first_of_group(rollouts, size)


@dataclass(frozen=True)
class Everything:
    """Every prompt is trained on, whatever its scores."""

    max_rounds: int = 1

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts) -> Int[Tensor, " N"]:
        """All rows."""
        return torch.arange(len(rollouts))


@dataclass(frozen=True)
class MixedGroups:
    """Dynamic sampling (DAPO, arXiv 2503.14476): prompts that are all right or all wrong are dropped and replaced.

    With the user's reward functions a prompt also stays where these differ, as by verl's metric `seq_final_reward`.

    After `max_rounds` rounds without enough mixed groups the run stops with a sentence: saturated data cannot loop.
    """

    max_rounds: int = 10
    refuses: ClassVar[tuple[str, ...]] = ("a success that is no correctness",)

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts) -> Int[Tensor, " N"]:
        """Rows of groups that hold a success and a failure, or unequal rewards; never by the shaped score."""
        constant = group_constant(verdicts.success.double(), rollouts.group, verdicts.graded)
        if verdicts.reward is not None:
            constant &= group_constant(verdicts.reward, rollouts.group, verdicts.graded)
        return (~constant).nonzero()[:, 0]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Collect a batch of answers.

    `prompts` chooses what to roll out and `draw` samples it; `label` says what a success is; `shape` parts turn
    successes into scores, in order, on all the samples of a prompt; then the G samples that `pick` names are trained on
    (the first by uid), unless `select` drops their prompt.
    """

    prompts: Prompts = field(default_factory=InOrder)
    draw: Draw = field(default_factory=Once)
    label: Label = field(default_factory=Verified)
    shape: tuple[Shape, ...] = ()
    pick: Pick = field(default_factory=FirstOfGroup)
    select: Select = field(default_factory=Everything)
    columns: tuple[Column, ...] = ()

    def __call__(self, run: TokenRun) -> Batch:
        """A batch of exactly the step's prompts; GuardStop where `select` leaves fewer.

        These are `run.prompts_per_step`, or as many as `prompts` wants where it leaves room for other rows.
        """
        wanted = self.prompts.wanted(run) if isinstance(self.prompts, LeavesRoom) else run.prompts_per_step
        rounds, verdicts_of, have = [], [], 0
        for _ in range(self.select.max_rounds):
            rollouts, verdicts = self._round(run, wanted)
            rounds.append(rollouts)
            verdicts_of.append(verdicts)
            have += len(set(rollouts.group.tolist()))
            if have >= wanted:
                break
        else:
            raise GuardStop(
                f"{have} of {wanted} prompts gave a mixed group in {self.select.max_rounds} rounds: the "
                "others are all solved, all unsolved or ungraded; use harder or easier data, or raise "
                "collect.select.max_rounds"
            )
        return self._batch(run, Rollouts.concat(rounds), _concat(verdicts_of), wanted)

    def replace(self, **slots: Any) -> Answers:
        """A copy with other parts in `slots`."""
        return replace(self, **slots)

    def _round(self, run: TokenRun, prompts: int) -> tuple[Rollouts, Verdicts]:
        def judge(rollouts: Rollouts) -> Verdicts:
            return self.label(rollouts, run.verifier)

        rollouts = self.draw(run, self.prompts(run, prompts), judge)
        verdicts = judge(rollouts)
        for shape in self.shape:
            verdicts = shape(rollouts, verdicts, run)
        picked = self.pick(rollouts, verdicts, run.group_size)
        run.observe(rollouts, verdicts, picked)
        rollouts, verdicts = rollouts.take(picked), verdicts.take(picked)
        kept = self.select(rollouts, verdicts)
        return rollouts.take(kept), verdicts.take(kept)

    def _batch(self, run: TokenRun, rollouts: Rollouts, verdicts: Verdicts, wanted: int) -> Batch:
        groups = sorted(set(rollouts.group.tolist()))[:wanted]
        rows = torch.isin(rollouts.group, torch.tensor(groups)).nonzero()[:, 0]
        rollouts, verdicts = rollouts.take(rows), verdicts.take(rows)
        columns = {column.name: column(rollouts, run) for column in self.columns}
        limit = torch.full((len(rollouts),), run.max_tokens)
        return run.score(to_batch(rollouts, verdicts, run.key).with_columns(limit=limit, **columns))


def to_batch(rollouts: Rollouts, verdicts: Verdicts, key: Tensor) -> Batch:
    """Rollouts and their verdicts as tensors: what core sees."""
    return Batch(
        action=rollouts.ids,
        mask=rollouts.mask,
        uid=rollouts.uid,
        group=rollouts.group,
        success=verdicts.success,
        graded=verdicts.graded,
        score=verdicts.score,
        prompt=rollouts.prompt,
        key=key,
        extra={"logp_sampled": rollouts.logp_sampled, **rollouts.extra},
    )


def first_of_group(rollouts: Rollouts, size: int) -> Int[Tensor, " N"]:
    """Rows of the `size` smallest uids of every group, in row order: votes and trained samples differ."""
    rank: dict[int, int] = {}
    keep = set()
    for row in torch.argsort(rollouts.uid).tolist():
        group = int(rollouts.group[row])
        rank[group] = rank.get(group, 0) + 1
        if rank[group] <= size:
            keep.add(row)
    return torch.tensor(sorted(keep), dtype=torch.int64)


def _concat(parts: Sequence[Verdicts]) -> Verdicts:
    vote: Mapping[int, str | None] = {g: v for p in parts for g, v in p.vote.items()}
    return Verdicts(
        answer=[a for p in parts for a in p.answer],
        success=torch.cat([p.success for p in parts]),
        graded=torch.cat([p.graded for p in parts]),
        score=torch.cat([p.score for p in parts]),
        vote=vote,
    )
