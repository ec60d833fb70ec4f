"""The control: TTRL's score with EVOL-RL's helpers, exactly what EVOL-RL is without its novelty."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from rekindle.methods import evol_rl, ttrl, ttrl_entropy
from rekindle.train.options import diff, flatten
from tests.methods.made import group_rollouts
from tests.methods.stage import collected, on_leaves

METHOD = ttrl_entropy.method()


def test_it_is_evol_rl_without_its_shape() -> None:
    evol = evol_rl.method()
    without = evol.replace(collect=evol.collect.replace(shape=()))
    assert flatten(without) == flatten(METHOD)
    assert {change.path for change in diff(METHOD, evol)} == {"collect.shape.0"}


def test_neutral_helpers_leave_ttrl() -> None:
    parent = ttrl.method()
    neutral = METHOD.replace(objective=parent.objective, terms=parent.terms)
    assert flatten(neutral) == flatten(parent)
    (stage, ours), (_, theirs) = (collected(m, group_rollouts(5)) for m in (METHOD, parent))
    assert torch.equal(ours.advantage, theirs.advantage) and (ours.advantage != 0).any()
    now = stage.policy(ours).detach()
    now = replace(now, logp=(ours.logp_old + math.log(1.25)).where(ours.mask, 0.0))
    got, want = on_leaves(METHOD, ours, now), on_leaves(parent, theirs, now)
    better = ours.live & (ours.advantage > 0)
    torch.testing.assert_close((got[1] - want[1])[better], -1.25 * (ours.advantage / ours.live.sum())[better])
    assert torch.equal(got[1][~better], want[1][~better]), "clip-higher frees what got better, between 1.2 and 1.28"
    assert (want[2] == 0).all()
    torch.testing.assert_close(got[2], (-0.003 / ours.live.sum()).double().expand_as(want[2]).where(ours.live, 0.0))


def test_a_unanimous_group_keeps_no_policy_gradient() -> None:
    _, batch = collected(METHOD, group_rollouts(2))
    assert batch.success.all() and (batch.advantage == 0).all()
