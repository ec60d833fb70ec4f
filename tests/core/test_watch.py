"""The watched term's gradient norm and its ratio to the rest equal what separate backward passes give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rekindle.core.descend import backward
from rekindle.core.echo import EchoNLL
from rekindle.core.method import PolicyGradient
from rekindle.core.types import Batch, mean_metrics
from rekindle.core.watch import watched
from rekindle.methods import echo_rl
from rekindle.tokens.rollouts import Rollouts
from tests.methods.made import group_rollouts
from tests.methods.stage import Stage, collected, gradients

METHOD = echo_rl.method().replace(terms=(EchoNLL(coef=0.5, watch=True),))


def staged(*groups: int) -> tuple[Stage, Batch]:
    return collected(METHOD, Rollouts.concat([group_rollouts(g) for g in groups]))


def gradient(stage: Stage, batch: Batch, method: PolicyGradient = METHOD) -> Tensor:
    return gradients(stage.parameters, lambda: backward(stage.policy, batch, method, 100))


@pytest.mark.parametrize("micro", [1, 3, 100])
def test_norms_are_those_of_separate_passes(micro: int) -> None:
    stage, batch = staged(2, 5, 6)
    rest = gradient(stage, batch, METHOD.replace(terms=())).norm().item()
    alone = batch.with_columns(advantage=torch.zeros_like(batch.advantage))
    own = gradient(stage, alone).norm().item()
    gradient(stage, batch)
    got = watched(stage.policy, batch, METHOD.terms, stage.parameters, micro)
    assert got["grad/EchoNLL"] == pytest.approx((own, 1.0), rel=1e-10)
    assert got["grad_ratio/EchoNLL"] == pytest.approx((own, rest), rel=1e-10) and own > 1e-3 and rest > 1e-3


def test_watching_leaves_the_gradient_alone() -> None:
    stage, batch = staged(2, 5)
    before = gradient(stage, batch)
    watched(stage.policy, batch, METHOD.terms, stage.parameters, 4)
    after = torch.cat([p.grad.flatten() for p in stage.parameters if p.grad is not None])
    assert torch.equal(before, after)


def test_nothing_is_measured_unasked_and_no_clip_is_no_gradient() -> None:
    stage, batch = staged(3)
    gradient(stage, batch)
    assert watched(stage.policy, batch, (EchoNLL(coef=0.5),), stage.parameters, 4) == {}
    got = watched(stage.policy, batch, METHOD.terms, stage.parameters, 4)
    assert got["grad/EchoNLL"] == (0.0, 1.0) and mean_metrics(got) == {"grad/EchoNLL": 0.0}
