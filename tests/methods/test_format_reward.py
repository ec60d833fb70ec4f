"""The format reward: well formed and ended scores 1, whatever the answer; success told honestly."""

from __future__ import annotations

from dataclasses import replace

import torch

from rekindle.methods import format_reward, grpo
from rekindle.tokens.collect import Answers
from rekindle.train.options import diff
from tests.methods.made import spoken
from tests.methods.stage import collected

METHOD = format_reward.method()
TEXTS = ["x=5", "x=7", "x!=5", "nothing", "y=5"]


def test_scores_are_the_form_alone() -> None:
    batch = collected(METHOD, spoken(TEXTS, truth="5"))[1]
    assert batch.score.tolist() == [1.0, 1.0, 0.0, 0.0, 1.0], "right or wrong; '!' is malformed in this task"
    assert batch.success.tolist() == [True, True, True, False, True], "there is an answer"
    assert (batch.advantage[:, 0] > 0).tolist() == [True, True, False, False, True]


def test_a_truncated_response_is_not_well_formed() -> None:
    rollouts = replace(spoken(TEXTS), finish=["length", "eos", "eos", "eos", "stop"])
    assert collected(METHOD, rollouts)[1].score.tolist() == [0.0, 1.0, 0.0, 0.0, 1.0]


def test_the_truth_is_never_read() -> None:
    with_it, without = (collected(METHOD, spoken(TEXTS, truth=t))[1] for t in ("5", None))
    assert torch.equal(with_it.score, without.score) and torch.equal(with_it.advantage, without.advantage)
    assert without.graded.all()
    assert isinstance(METHOD.collect, Answers) and not METHOD.collect.label.needs_truth


def test_where_all_are_in_form_there_is_nothing_to_learn() -> None:
    batch = collected(METHOD, spoken(["a=1", "b=2", "c=3"], truth="1"))[1]
    assert (batch.advantage == 0).all() and batch.success.all()


def test_only_the_label_and_the_score_differ_from_grpo() -> None:
    paths = {change.path for change in diff(grpo.method(), METHOD)}
    assert paths and all(path.startswith(("collect.label", "collect.shape")) for path in paths)
