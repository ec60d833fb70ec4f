"""EMPO: the source's votes, clusters by equivalence, and that the share is of all samples."""

from __future__ import annotations

import math
from random import Random

import pytest
import torch

from rekindle.core.advantages import GroupNormalized
from rekindle.methods import empo, ttrl
from rekindle.methods.empo import ClusterShare
from rekindle.tokens.collect import to_batch
from rekindle.tokens.labels import MajorityVote, Verdicts
from rekindle.train.options import flatten
from tests.methods.made import group_rollouts, spoken
from tests.methods.stage import collected, table_stage

METHOD = empo.method()
STAGE = table_stage(METHOD)


def shares(answers: list[str], part: ClusterShare | None = None, group: list[int] | None = None) -> Verdicts:
    """The verdicts on responses that give `answers` ("" = none)."""
    rollouts = spoken([f"x={a}" if a else "x" for a in answers], group=group)
    return (part or ClusterShare())(rollouts, METHOD.collect.label(rollouts, STAGE.verifier), STAGE)


def advantages(answers: list[str], verdicts: Verdicts) -> list[float]:
    return GroupNormalized()(to_batch(spoken(answers), verdicts, torch.tensor(0)))[:, 0].tolist()


def test_worked_example() -> None:
    answers = ["5"] * 5 + ["7"] * 2 + ["3"]
    verdicts = shares(answers)
    assert verdicts.score.tolist() == [0.625] * 5 + [0.25] * 2 + [0.125]
    want = [0.713243] * 5 + [-0.998541] * 2 + [-1.569136]
    assert advantages(answers, verdicts) == pytest.approx(want, abs=1e-5)
    theirs = MajorityVote()(spoken([f"x={a}" for a in answers]), STAGE.verifier)
    want = [0.724567] * 5 + [-1.207612] * 3
    assert advantages(answers, theirs) == pytest.approx(want, abs=1e-5), "TTRL does not rank the minority"
    assert verdicts.success.tolist() == theirs.success.tolist()


def test_equivalent_answers_are_one_cluster_in_any_order() -> None:
    answers = ["1/2", "0.5", "3", "2/4", "3", "7"]
    want = {"1/2": 0.5, "0.5": 0.5, "2/4": 0.5, "3": 1 / 3, "7": 1 / 6}
    for seed in range(4):
        Random(seed).shuffle(answers)
        verdicts = shares(answers)
        assert verdicts.score.tolist() == pytest.approx([want[a] for a in answers])
        assert verdicts.success.tolist() == [want[a] == 0.5 for a in answers]


def test_an_empty_answer_scores_nothing_and_counts_as_a_sample() -> None:
    verdicts = shares(["5", "5", "", ""])
    assert verdicts.score.tolist() == [0.5, 0.5, 0, 0]
    assert shares(["5", "5", "", ""], ClusterShare(over="parsed")).score.tolist() == [1, 1, 0, 0]
    assert (shares(["", ""]).score == 0).all() and (shares(["", ""], ClusterShare(over="parsed")).score == 0).all()


def test_each_group_has_its_own_clusters() -> None:
    verdicts = shares(["5", "7", "5", "7", "7", "7"], group=[0, 1, 0, 1, 0, 1])
    assert verdicts.score.tolist() == pytest.approx([2 / 3, 1, 2 / 3, 1, 1 / 3, 1])


def test_all_equal_or_all_different_is_no_signal() -> None:
    for answers in (["5"] * 4, ["5", "7", "3", "9"]):
        assert advantages(answers, shares(answers)) == [0.0] * 4


def test_the_loss_is_that_of_gspo() -> None:
    flat = flatten(METHOD)
    want = {"objective.level": "sequence", "aggregate": "SequenceMean", "terms": (), "objective.dual": None}
    assert {path: flat[path] for path in want} == want
    assert (flat["objective.low"], flat["objective.high"]) == pytest.approx((1 - 3e-4, 1 + 4e-4), abs=1e-15)
    _, batch = collected(METHOD, group_rollouts(5))
    row = METHOD.objective.ratio(moved_on(batch), batch)  # type: ignore[attr-defined]
    for b in range(len(batch)):
        moved = 0.1 * (torch.arange(batch.mask.shape[1]) - 3.0)[batch.live[b]]
        assert row[b][batch.live[b]].tolist() == pytest.approx(
            [math.exp(moved.mean().item())] * int(batch.live[b].sum())
        )


def moved_on(batch):
    """A policy whose log-probs moved by 0.1 * (t - 3)."""
    from rekindle.core.types import Now

    moved = 0.1 * (torch.arange(batch.mask.shape[1]) - 3.0).double()
    return Now(logp=(batch.logp_old + moved).where(batch.mask, 0.0), entropy=torch.zeros_like(batch.logp_old))


def test_hard_scores_are_ttrl() -> None:
    rollouts = spoken([f"x={a}" for a in ["5", "5", "7", "3"]])
    verdicts = METHOD.collect.label(rollouts, STAGE.verifier)
    assert torch.equal(verdicts.score, ttrl.method().collect.label(rollouts, STAGE.verifier).score)
