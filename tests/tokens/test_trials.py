"""What a candidate is worth: scores over graded responses, by the label and its shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rekindle.core.ranks import Alone
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.trials import Responses
from rekindle.tokens.verify import Verifier
from tests.methods.made import VERIFIER, spoken
from tests.ranks.team import Member, together


@dataclass(eq=False)
class Speaker:
    """A run that says the same texts whoever asks."""

    texts: tuple[str, ...]
    truth: str | None = "5"
    verifier: Verifier = VERIFIER
    prompts_per_step: int = 3
    asked: list[Any] = field(default_factory=list)
    seen: list[tuple[Rollouts, Verdicts, Tensor]] = field(default_factory=list)

    def next_examples(self, count: int) -> list[Example]:
        return [Example(str(i), "x", self.truth) for i in range(count)]

    def greedy(self, examples: list[Example]) -> Rollouts:
        return self.tried(examples, True)

    def tried(self, examples: list[Example], greedy: bool) -> Rollouts:
        self.asked.append(greedy)
        return spoken(self.texts, range(len(self.texts)), self.truth)

    def observe(self, rollouts: Rollouts, verdicts: Verdicts, trained: Tensor) -> None:
        self.seen.append((rollouts, verdicts, trained))


@dataclass(frozen=True)
class Halved:
    """Half the score, and nothing of the first row."""

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts, run: Any) -> Verdicts:
        graded = verdicts.graded.clone()
        graded[0] = False
        return replace(verdicts, score=verdicts.score / 2, graded=graded)


def test_a_candidate_is_worth_its_mean_score() -> None:
    run = Speaker(("a=5", "b=7", "c=5.0"))
    assert Responses()(run, run.next_examples(3)) == 2 / 3
    assert Responses(shape=(Halved(),))(run, run.next_examples(3)) == 1 / 4
    assert run.asked == [True, True]
    Responses(greedy=False)(run, run.next_examples(3))
    assert run.asked[-1] is False


def test_what_has_no_reference_is_worth_nothing_known() -> None:
    run = Speaker(("a=5", "b=7"), truth=None)
    assert math.isnan(Responses()(run, run.next_examples(2)))


def test_the_mean_is_observed_on_the_prompts_before_it_has_seen_them() -> None:
    run = Speaker(("a=5", "b=7", "c"))
    assert [e.id for e in Responses().examples(run)] == ["0", "1", "2"]
    rollouts, verdicts, trained = run.seen[0]
    assert list(rollouts.text) == ["a=5", "b=7", "c"] and verdicts.success.tolist() == [True, False, False]
    assert trained.dtype == torch.int64 and len(trained) == 0, "no row is trained on"


def test_a_candidate_is_graded_by_its_own_rank_alone() -> None:
    def work(rank: Member) -> float:
        run = Speaker(("a=5",) * (1 + rank.index) + ("b=7",), verifier=replace(VERIFIER, ranks=rank))
        worth = Responses()(run, run.next_examples(2))
        rank.exchange(worth)
        return worth

    assert together(2, work) == [1 / 2, 2 / 3]
    assert Alone().count == 1
