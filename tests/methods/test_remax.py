"""ReMax: the greedy response of each prompt is the baseline, asked for once, graded by the label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from rekindle.core.advantages import GroupNormalized
from rekindle.errors import InputError
from rekindle.methods import dr_grpo, remax
from rekindle.methods.remax import GreedyBaseline
from rekindle.tokens.collect import Answers
from rekindle.tokens.labels import MajorityVote, Verified
from rekindle.tokens.rollouts import Example, Rollouts
from tests.methods.made import VERIFIER, spoken
from tests.methods.stage import Stage, collected, table_stage

METHOD = remax.method()


@dataclass
class Greedy:
    """A run whose greedy response to prompt i says `says[i]`; it remembers what it was asked."""

    says: dict[str, str]
    verifier: Any = VERIFIER
    asked: list[list[str]] = field(default_factory=list)

    def greedy(self, examples: Sequence[Example]) -> Rollouts:
        self.asked.append([e.id for e in examples])
        rows = spoken([self.says[e.id] for e in examples], list(range(90, 90 + len(examples))), "5")
        return replace(rows, example=list(examples))


def scores(says: dict[str, str], texts: list[str], group: list[int]) -> tuple[list[float], Greedy]:
    rollouts, run = spoken(texts, group, "5"), Greedy(says)
    return GreedyBaseline()(rollouts, Verified()(rollouts, VERIFIER), run).score.tolist(), run


def test_scores_are_relative_to_the_greedy_response_of_the_same_prompt() -> None:
    got, run = scores({"3": "a=5", "1": "a=7"}, ["x=5", "x=7", "x=5", "x=7"], [3, 3, 1, 1])
    assert got == [0.0, -1.0, 1.0, 0.0]
    assert run.asked == [["1", "3"]], "one greedy response a prompt, in one call"


def test_the_same_prompt_twice_in_a_step_is_asked_for_twice() -> None:
    rollouts = spoken(["x=5", "x=7"], [4, 9], "5")
    rollouts = replace(rollouts, example=[Example("p", "x", "5")] * 2)
    run = Greedy({"p": "a=5"})
    got = GreedyBaseline()(rollouts, Verified()(rollouts, VERIFIER), run)
    assert got.score.tolist() == [0.0, -1.0] and run.asked == [["p", "p"]]
    assert got.success.tolist() == [True, False], "success stays what it is"


def test_a_prompt_that_cannot_be_graded_is_not() -> None:
    rollouts = spoken(["x=5", "x=7"], [0, 0], "?")
    got = GreedyBaseline()(rollouts, Verified()(rollouts, VERIFIER), Greedy({"0": "a=5"}))
    assert got.graded.tolist() == [False, False]


def test_the_advantage_is_the_relative_score_and_one_sample_is_enough() -> None:
    def source(g: int) -> Rollouts:
        rows = spoken(["a=5", "a=7"] if g % 2 else ["a=7", "a=5"], [g] * 2, "5", [3, 2])
        return replace(rows, uid=rows.uid + 2 * g)

    stage: Stage = table_stage(METHOD, source=source, prompts_per_step=2, group_size=1)
    batch = METHOD.credit(METHOD.collect(stage))
    assert batch.score.tolist() == [-1.0, 1.0], "row 0 against the greedy row 1 of each prompt"
    assert torch.equal(batch.advantage, batch.score[:, None].where(batch.live, 0.0))
    assert not METHOD.advantage.needs_group


def test_with_the_group_mean_taken_off_it_is_dr_grpos_advantage() -> None:
    rollouts = spoken(["a=5", "a=7", "a=5", "a=7", "a=5", "a=7"], [0, 0, 0, 1, 1, 1], "5")
    centred = METHOD.replace(advantage=GroupNormalized(std="none"))
    ours, theirs = collected(centred, rollouts)[1], collected(dr_grpo.method(), rollouts)[1]
    torch.testing.assert_close(ours.advantage, theirs.advantage, rtol=1e-12, atol=1e-15)
    assert (theirs.advantage != 0).all() and not torch.equal(ours.score, theirs.score)


def test_a_vote_is_refused() -> None:
    rollouts = spoken(["x=5", "x=5"], [0, 0])
    voted = MajorityVote()(rollouts, VERIFIER)
    with pytest.raises(InputError, match=r"collect\.label=verified"):
        GreedyBaseline()(rollouts, voted, Greedy({"0": "a=5"}))
    with pytest.raises(InputError, match="voted"):
        GreedyBaseline(label=MajorityVote())(rollouts, Verified()(rollouts, VERIFIER), Greedy({"0": "a=5"}))
    assert isinstance(METHOD.collect, Answers)
