"""Stratified GRPO as a record: strata by steps or by a column of the data, and GRPO where there is one stratum."""

from __future__ import annotations

import torch

from rekindle.methods import grpo, stratified_grpo
from rekindle.methods.stratified_grpo import Stratum
from rekindle.tokens.columns import Steps
from rekindle.tokens.rollouts import Rollouts
from rekindle.train.options import override
from tests.methods.made import group_rollouts, spoken
from tests.methods.stage import collected, on_leaves, table_stage

METHOD = stratified_grpo.method()
ROLLOUTS = Rollouts.concat([group_rollouts(g) for g in (0, 1, 5, 6)])
STAGE = table_stage(METHOD)


def test_strata_are_numbers_of_steps() -> None:
    got = Stratum()(ROLLOUTS, STAGE)
    steps = Steps()(ROLLOUTS, STAGE)
    assert got.tolist() == [len(set(row[row >= 0].tolist())) for row in steps] and got.unique().numel() > 2
    assert Stratum(most=2)(ROLLOUTS, STAGE).tolist() == [min(n, 2) for n in got.tolist()]


def test_strata_are_how_often_a_tool_is_called() -> None:
    said = spoken(["<call>5=5", "5=5", "<call><call>=5", "<call>" * 7])
    assert Stratum(by="<call>")(said, STAGE).tolist() == [1, 0, 2, 7]
    assert Stratum(by="<call>", most=3)(said, STAGE).tolist() == [1, 0, 2, 3]


def test_one_stratum_or_alpha_0_is_grpo() -> None:
    (_, blend), (stage, theirs) = collected(METHOD, ROLLOUTS), collected(grpo.method(), ROLLOUTS)
    assert not torch.allclose(blend.advantage, theirs.advantage)
    now = stage.policy(theirs).detach()
    want = on_leaves(grpo.method(), theirs, now)
    for path, value in (("advantage.alpha", 0.0), ("collect.columns.0.most", 1)):
        neutral = override(METHOD, path, value)
        ours = collected(neutral, ROLLOUTS)[1]
        torch.testing.assert_close(ours.advantage, theirs.advantage, rtol=1e-12, atol=1e-12)
        got = on_leaves(neutral, ours, now)
        torch.testing.assert_close(got[1], want[1], rtol=1e-12, atol=1e-15)
    assert (want[1] != 0).any()
