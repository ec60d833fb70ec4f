"""A reward function with its weight, and the weighted sum of several: TRL's `sum_then_normalize`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekindle.core.types import Metrics
from rekindle.errors import InputError
from rekindle.tokens.rewards.base import Convention, Log, Progress, Told, TrainerState, gather
from rekindle.tokens.rewards.calling import Loop, Work, accepted, ask
from rekindle.tokens.rewards.conventions import convention_of
from rekindle.tokens.rewards.patience import Patience
from rekindle.tokens.rewards.rows import Names, unanswered
from rekindle.tokens.rollouts import Example, Rollouts

_TRIED = 1_000
"""Rows whose call is made up before a run starts."""


@dataclass(frozen=True)
class Reward:
    """One reward function. convention: how it is called; None: told by the names of its parameters."""

    name: str
    function: Callable[..., Any]
    weight: float = 1.0
    convention: Convention | None = None

    def __call__(self, rollouts: Rollouts) -> list[float | None]:
        """One reward a rollout, None where the function does not apply; InputError naming function and row."""
        return Rewards((self,)).parts(rollouts)[self.name]

    def how(self) -> Convention:
        """How it is called."""
        return convention_of(self.name, self.function) if self.convention is None else self.convention


@dataclass(frozen=True, eq=False)
class Rewarded:
    """What reward functions say of rollouts. score [B] float64; graded [B]: whether any function answered.

    success [B]: score >= the sum of the positive weights of the functions that answered the row, which is the score
    where each of these gives 1 and none of negative weight takes away; a function that tells success apart from its
    reward (OpenRLHF's scores) counts with that. metrics: `reward/NAME` -> (sum, count) of a function's own rewards,
    unweighted, over the rows that it answered; `reward/NAME/KEY`: what it logged. extra: the same a row, as columns of
    the rollouts: `reward/NAME` and `reward/NAME/KEY` -> a value a row, None where there is none. All of it can be
    pickled.
    """

    score: Float[Tensor, " B"]
    success: Bool[Tensor, " B"]
    graded: Bool[Tensor, " B"]
    metrics: Metrics
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Rewards:
    """A weighted sum of reward functions.

    progress: where the run is, for functions that ask (`trainer_state`). names: the columns of the data, of which each
    function gets all in every batch. patience: tells of one that does not come back.
    """

    rewards: tuple[Reward, ...]
    progress: Progress = field(default_factory=Progress, compare=False)
    names: Names = field(default_factory=Names, compare=False, repr=False)
    patience: Patience = field(default_factory=Patience, compare=False, repr=False)
    loop: Loop = field(default_factory=Loop, compare=False, repr=False)

    def __post_init__(self) -> None:
        names = [reward.name for reward in self.rewards]
        twice = next((name for name in names if names.count(name) > 1), None)
        if not names or twice is not None:
            what = "no reward function given" if twice is None else f"reward '{twice}' is given twice"
            raise InputError(f"{what}: give FILE.py:function[=weight], each once")

    def __call__(self, rollouts: Rollouts, state: TrainerState | None = None) -> Rewarded:
        """Weighted sums over the functions that answered, 0 where none did; success as in `Rewarded`."""
        told = self.told(rollouts, state)
        weighted = list(zip(self.rewards, told.values(), strict=True))
        rows = [[(r.weight, t.cells[i]) for r, t in weighted if t.cells[i].reward is not None] for i in _rows(rollouts)]
        score = _sums([[w * (cell.reward or 0.0) for w, cell in row] for row in rows])
        worth = _sums([[w * _worth(cell.worth, cell.reward) for w, cell in row] for row in rows])
        full = _sums([[w for w, _ in row if w > 0] for row in rows])
        graded = torch.tensor([len(row) > 0 for row in rows], dtype=torch.bool)
        return Rewarded(score, graded & (worth >= full), graded, _metrics(told), _extra(told))

    def fit(self, examples: Iterable[Example]) -> None:
        """Know the columns of the data before the first batch; InputError where a function cannot be called with them.

        examples: of the training data, as many of them as can be looked at. The calls are those of the first thousand.
        """
        some: list[Example] = []
        for example in examples:
            self.names.see((example,))
            some += (example,) if len(some) < _TRIED else ()
        data, names = unanswered(some), tuple(self.names.seen)
        for reward in self.rewards:
            for call in reward.how().calls(data, TrainerState(), Log(reward.name, len(some)), names)[:1]:
                accepted(reward.name, reward.function, call.offered, call.spare)

    def parts(self, rollouts: Rollouts) -> dict[str, list[float | None]]:
        """Function name -> its own rewards, unweighted, one a rollout; None where it does not apply."""
        return {name: told.rewards for name, told in self.told(rollouts).items()}

    def told(self, rollouts: Rollouts, state: TrainerState | None = None) -> dict[str, Told]:
        """Function name -> what it said. Plain functions run one after the other, then all async ones at once."""
        now = self.progress.state if state is None else state
        ways = [reward.how() for reward in self.rewards]
        prompts = [example.id for example in rollouts.example]
        logs = [Log(reward.name, len(rollouts), prompts) for reward in self.rewards]
        names = self.names.see(rollouts.example)
        calls = [way.calls(rollouts, now, log, names) for way, log in zip(ways, logs, strict=True)]
        works = [Work(r.name, r.function, asked, prompts) for r, asked in zip(self.rewards, calls, strict=True)]
        told: dict[str, Told] = {}
        for work, way, log, answers in zip(works, ways, logs, ask(works, self.loop, self.patience), strict=True):
            said = [way.cells(work.name, call, a, log) for call, a in zip(work.calls, answers, strict=True)]
            told[work.name] = gather(work.calls, said, log)
        return told


def _rows(rollouts: Rollouts) -> range:
    return range(len(rollouts))


def _worth(worth: float | None, reward: float | None) -> float:
    return (reward or 0.0) if worth is None else worth


def _sums(rows: Sequence[Sequence[float]]) -> Float[Tensor, " B"]:
    return torch.tensor([sum(row) for row in rows], dtype=torch.float64)


def _metrics(told: Mapping[str, Told]) -> Metrics:
    metrics: Metrics = {}
    for name, said in told.items():
        given = [value for value in said.rewards if value is not None]
        metrics[f"reward/{name}"] = (sum(given), len(given))
        metrics |= {f"reward/{name}/{key}": pair for key, pair in said.metrics.items()}
    return metrics


def _extra(told: Mapping[str, Told]) -> dict[str, Sequence[Any]]:
    columns: dict[str, Sequence[Any]] = {}
    for name, said in told.items():
        columns[f"reward/{name}"] = said.rewards
        columns |= {f"reward/{name}/{key}": values for key, values in said.columns.items()}
    return columns
