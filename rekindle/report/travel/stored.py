"""Stored responses in the place of a sampler: what a step sampled then is what it is given now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from rekindle.core.types import Metrics
from rekindle.errors import InputError
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.base import Sampler, Sampling

GREEDY = "greedy responses"


class Diverged(Exception):
    """The replayed step is not the one that was recorded: what differs first."""


class Stored:
    """Hands out the responses of a recorded step, and only to who asks for the prompts that it had.

    inner: for what is not kept, greedy responses; None where the run's engine is not at hand. again: what it was asked
    for. settings: the run's own; whatever is asked by them must be there.
    """

    def __init__(
        self, rounds: Sequence[Rollouts], inner: Sampler | None, settings: Sampling, apart: float | None
    ) -> None:
        self.inner, self.settings, self.apart = inner, settings, apart
        self.rounds = rounds
        self.again: list[str] = []
        self._place = {uid: (i, row) for i, r in enumerate(rounds) for row, uid in enumerate(r.uid.tolist())}

    def sample(
        self, examples: Sequence[Example], n: int, settings: Sampling, key: Int[Tensor, ""], first_group: int
    ) -> Rollouts:
        """See `Samples`. `Diverged` where the step asks for other prompts, or for more, than it did."""
        uids = [(first_group + i) * n + j for i in range(len(examples)) for j in range(n)]
        if settings != self.settings:  # and not by uid: greedy responses have uids of their own, which may look alike
            return self._again(examples, n, settings, key, first_group)
        for place, uid in enumerate(uids):
            self._refuse_other(examples[place // n], place // n, uid)
        return self._taken(uids, n)

    def push(self) -> Metrics:
        """Nothing: stored responses are of the weights that they are of."""
        return {} if self.inner is None else self.inner.push()

    def rest(self) -> None:
        """Nothing to free."""

    def close(self) -> None:
        """Let go of what samples again."""
        if self.inner is not None:
            self.inner.close()

    def _refuse_other(self, example: Example, place: int, uid: int) -> None:
        if uid not in self._place:
            raise Diverged(f"asks for response {uid} (prompt '{example.id}', place {place}), which the step never drew")
        number, row = self._place[uid]
        had = self.rounds[number].example[row].id
        if had != example.id:
            raise Diverged(f"asks for prompt '{example.id}' at place {place}, where the step had '{had}'")

    def _taken(self, uids: Sequence[int], n: int) -> Rollouts:
        """The rows by uid. Groups are named by the uid, for a draw may have joined them since."""
        number = self._place[uids[0]][0]
        if any(self._place[uid][0] != number for uid in uids):
            raise Diverged("asks at once for responses that the step drew in several rounds")
        rows = self.rounds[number].take(torch.tensor([self._place[uid][1] for uid in uids]))
        return replace(rows, group=rows.uid // n)

    def _again(
        self, examples: Sequence[Example], n: int, settings: Sampling, key: Int[Tensor, ""], first_group: int
    ) -> Rollouts:
        if self.inner is None:
            raise InputError(
                f"the step asks for {GREEDY}, which are not kept, and the engine that gave them is not started for a "
                "replay: name a step of a run with rollout.sampler=local"
            )
        self.again.append(GREEDY)
        return self.inner.sample(examples, n, settings, key, first_group)
