"""The control: EchoRL but for the choice of what is echoed."""

from __future__ import annotations

import torch

from rekindle.core.echo import EchoNLL
from rekindle.methods import echo_rl, echo_whole, grpo
from rekindle.tokens.rollouts import Rollouts
from rekindle.train.options import diff
from tests.methods.made import group_rollouts
from tests.methods.stage import collected, on_leaves

METHOD = echo_whole.method()
ROLLOUTS = Rollouts.concat([group_rollouts(g) for g in (2, 5, 6)])


def test_only_the_choice_differs() -> None:
    assert {c.path: (c.old, c.new) for c in diff(echo_rl.method(), METHOD)} == {
        "prepare.0.choose": ("entropy", "whole")
    }


def test_coefficient_zero_is_the_host() -> None:
    neutral = METHOD.replace(terms=(EchoNLL(coef=0.0),))
    (stage, ours), (_, theirs) = collected(neutral, ROLLOUTS), collected(grpo.method(), ROLLOUTS)
    now = stage.policy(ours).detach()
    got, want = on_leaves(neutral, ours, now), on_leaves(grpo.method(), theirs, now)
    assert got[0] == want[0] and torch.equal(got[1], want[1]) and (want[1] != 0).any()


def test_every_prompt_with_a_right_answer_has_one_clip_from_its_first_token() -> None:
    _, batch = collected(METHOD, ROLLOUTS)
    echo = batch.column("echo")
    rows = (echo > 0).any(dim=1)
    assert sorted(batch.group[rows].tolist()) == [2, 5, 6] and batch.success[rows].all()
    for row in rows.nonzero()[:, 0].tolist():
        clip, live = echo[row] > 0, batch.live[row]
        length = int(clip.sum())
        assert torch.equal(clip, live & (live.cumsum(dim=0) <= length))
        assert length == int(live.sum())
