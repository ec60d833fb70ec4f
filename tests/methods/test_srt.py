"""SRT: TTRL at threshold 0 when all parse, EMPO's shares when soft, and no label for a weak majority."""

from __future__ import annotations

import pytest
import torch

from rekindle.methods import rloo, srt, ttrl
from rekindle.methods.empo import ClusterShare
from rekindle.methods.srt import SelfConsistency
from rekindle.tokens.labels import MajorityVote, Verdicts
from rekindle.train.options import flatten
from tests.methods.made import group_rollouts, spoken
from tests.methods.stage import collected, on_leaves, table_stage

METHOD = srt.method()
STAGE = table_stage(METHOD)
ANSWERS = ["5", "7", "5", "3", "1/2", "0.5", "9", "5"]


def judged(answers: list[str], part: SelfConsistency, group: list[int] | None = None) -> Verdicts:
    rollouts = spoken([f"x={a}" if a else "x" for a in answers], group=group)
    return part(rollouts, MajorityVote()(rollouts, STAGE.verifier), STAGE)


def test_hard_with_threshold_0_is_ttrl_where_all_parse() -> None:
    rollouts = spoken([f"x={a}" for a in ANSWERS], group=[0, 0, 0, 0, 1, 1, 1, 1])
    theirs = ttrl.method().collect.label(rollouts, STAGE.verifier)
    ours = SelfConsistency()(rollouts, theirs, STAGE)
    assert torch.equal(ours.score, theirs.score) and torch.equal(ours.success, theirs.success)
    assert ours.score.tolist() == [1, 0, 1, 0, 1, 1, 0, 0]


def test_soft_is_empo_where_all_parse() -> None:
    rollouts = spoken([f"x={a}" for a in ANSWERS])
    voted = MajorityVote()(rollouts, STAGE.verifier)
    ours, theirs = SelfConsistency(soft=True)(rollouts, voted, STAGE), ClusterShare()(rollouts, voted, STAGE)
    assert torch.equal(ours.score, theirs.score) and ours.score.unique().numel() == 3
    assert torch.equal(ours.success, voted.success), "a success is still the majority's answer"


def test_the_share_is_of_the_parsed_answers() -> None:
    answers = ["5", "5", "7", "", ""]
    for threshold, labelled in ((0.6, True), (2 / 3, True), (0.7, False)):
        verdicts = judged(answers, SelfConsistency(threshold=threshold))
        assert verdicts.success.tolist() == [labelled, labelled, False, False, False]
        assert verdicts.score.tolist() == verdicts.success.double().tolist()
    assert judged(answers, SelfConsistency(soft=True)).score.tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3, 0, 0])
    assert (judged(answers, SelfConsistency(soft=True, threshold=0.7)).score == 0).all()


def test_each_group_passes_the_threshold_alone() -> None:
    verdicts = judged(["5", "5", "7", "3", "9", "8"], SelfConsistency(threshold=0.5), group=[0, 0, 0, 1, 1, 1])
    assert verdicts.success.tolist() == [True, True, False, False, False, False]


def test_nothing_parsed_is_no_label() -> None:
    for part in (SelfConsistency(), SelfConsistency(soft=True)):
        verdicts = judged(["", ""], part)
        assert not verdicts.success.any() and (verdicts.score == 0).all()


def test_with_the_gold_label_it_is_rloo() -> None:
    rollouts = group_rollouts(5)
    (stage, ours), (_, theirs) = collected(METHOD, rollouts), collected(rloo.method(), rollouts)
    assert ours.success.tolist() == theirs.success.tolist(), "here the majority is right"
    now = stage.policy(ours).detach()
    got, want = on_leaves(METHOD, ours, now), on_leaves(rloo.method(), theirs, now)
    assert got[0] == want[0] and torch.equal(got[1], want[1]) and (want[1] != 0).any()
    assert flatten(METHOD)["terms"] == ()


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_a_threshold_is_a_share(threshold: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        SelfConsistency(threshold=threshold)
