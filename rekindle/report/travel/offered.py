"""The stored responses of a step for a method that did not draw them: as many of each prompt as it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from rekindle.core.method import PolicyGradient
from rekindle.core.types import Metrics
from rekindle.report.travel.stored import GREEDY
from rekindle.tokens.collect import InOrder
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.base import Sampler, Sampling
from rekindle.tokens.slots import LeavesRoom, Select


class Exhausted(Exception):
    """The method asks for more than the step drew."""


class Offered:
    """A sampler that hands out stored responses in the order of their uids. `notes`: what it could not give.

    inner: samples greedy responses. settings: those of the run; other ones are greedy.
    """

    def __init__(self, rounds: Sequence[Rollouts], inner: Sampler, settings: Sampling, apart: float | None) -> None:
        self.rounds, self.inner, self.settings, self.apart = rounds, inner, settings, apart
        self.notes: list[str] = []
        self.again()

    def again(self) -> None:
        """Begin anew with the first round."""
        self._round = -1
        self._left: dict[str, list[list[int]]] = {}

    def groups(self, number: int) -> dict[int, list[int]]:
        """Group -> its rows in a round, by uid."""
        rollouts = self.rounds[number]
        found: dict[int, list[int]] = {}
        for row in torch.argsort(rollouts.uid, stable=True).tolist():
            found.setdefault(int(rollouts.group[row]), []).append(row)
        return dict(sorted(found.items()))

    def prompts(self) -> list[Example]:
        """The prompts of the next round, in their order; `Exhausted` behind the last."""
        self._round += 1
        if self._round >= len(self.rounds):
            raise Exhausted(f"it would have asked for more prompts than the {len(self.rounds)} stored rounds have")
        examples, rows = self.rounds[self._round].example, self.groups(self._round)
        self._left = {}
        for group in rows.values():
            self._left.setdefault(examples[group[0]].id, []).append(list(group))
        return [examples[group[0]] for group in rows.values()]

    def sample(
        self, examples: Sequence[Example], n: int, settings: Sampling, key: Int[Tensor, ""], first_group: int
    ) -> Rollouts:
        """See `Samples`, but rows keep their groups and uids, so that minibatches are cut as they were."""
        if settings != self.settings:
            self.note(f"{GREEDY} are sampled again")
            return self.inner.sample(examples, n, settings, key, first_group)
        taken: list[int] = []
        seen: dict[str, int] = {}
        for example in examples:
            nth = seen[example.id] = seen.get(example.id, -1) + 1
            taken += self._some(example.id, nth, n)
        return self.rounds[self._round].take(torch.tensor(taken))

    def note(self, text: str) -> None:
        """Say it once."""
        self.notes += [] if text in self.notes else [text]

    def push(self) -> Metrics:
        """Nothing to do."""
        return self.inner.push()

    def rest(self) -> None:
        """Nothing to free."""

    def close(self) -> None:
        """Let go of what samples again."""
        self.inner.close()

    def _some(self, prompt: str, nth: int, n: int) -> list[int]:
        """The next `n` rows of the nth group of a prompt, or those that are left."""
        rows = self._left[prompt][nth]
        if not rows:
            raise Exhausted("it would have sampled more responses of a prompt than are stored")
        if len(rows) < n:
            self.note(f"it would have sampled {n} responses of a prompt at once, and fewer are stored ({len(rows)})")
        some, self._left[prompt][nth] = rows[:n], rows[n:]
        return some


class OfPast:
    """Prompts as they were stored, whichever the method would have chosen."""

    def __init__(self, offered: Offered, own: Any, most: int) -> None:
        self.offered, self.own, self.most = offered, own, most

    def wanted(self, run: Any) -> int:
        """As many as the method wants, or as there are."""
        own = self.own.wanted(run) if isinstance(self.own, LeavesRoom) else run.prompts_per_step
        return min(own, self.most)

    def __call__(self, run: Any, count: int) -> Sequence[Example]:
        """The next stored round."""
        if not isinstance(self.own, InOrder | LeavesRoom):
            self.offered.note(f"its own choice of prompts ({type(self.own).__name__}) is not followed")
        return self.offered.prompts()


class Counted:
    """A method's own selection, which counts the prompts that it kept."""

    def __init__(self, own: Select) -> None:
        self.own, self.kept = own, 0

    @property
    def max_rounds(self) -> int:
        """As the method's own."""
        return self.own.max_rounds

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts) -> Int[Tensor, " N"]:
        """What the method's own says."""
        rows = self.own(rollouts, verdicts)
        self.kept += len(rollouts.group[rows].unique())
        return rows


@dataclass(frozen=True)
class Fed:
    """A method with stored prompts in the place of its own, `wanted` of them."""

    method: PolicyGradient
    select: Counted
    wanted: int

    @property
    def short(self) -> bool:
        """Whether it has not (yet) kept as many as it wanted."""
        return self.select.kept < self.wanted

    @staticmethod
    def of(method: PolicyGradient, offered: Offered, most: int) -> Fed:
        """`method` on at most `most` stored prompts: of the first round where it asks but once."""
        collect: Any = method.collect
        select = Counted(collect.select)
        rounds = offered.rounds if select.max_rounds > 1 else offered.rounds[:1]
        if len(rounds) < len(offered.rounds):
            offered.note(f"it samples once: of the {len(offered.rounds)} stored rounds it has the first")
        prompts = OfPast(offered, collect.prompts, min(most, sum(len(r.group.unique()) for r in rounds)))
        return Fed(method.replace(collect=collect.replace(prompts=prompts, select=select)), select, prompts.most)
