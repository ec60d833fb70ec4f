"""The adaptive entropy bonus: how the coefficient moves, when it is applied, and that a checkpoint keeps it."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rekindle.core.types import Batch, Now, Update
from rekindle.methods import entropy_adaptive, entropy_bonus, grpo
from rekindle.methods.entropy_adaptive import FollowEntropy, entropy_coef
from tests.batches import make_batch, make_now
from tests.methods.stage import on_leaves

METHOD = entropy_adaptive.method()
BATCH = make_batch(ungraded=True)


def saw(run: Any, entropies: list[float], part: FollowEntropy | None = None) -> float:
    """A step whose updates had these mean entropies; returns what the next step applies."""
    for i, level in enumerate(entropies):
        now = Now(logp=BATCH.logp_old, entropy=torch.full_like(BATCH.logp_old, level))
        (part or FollowEntropy())(run, Update(batch=BATCH, now=now, metrics={}, index=i, last=i == len(entropies) - 1))
    run.memory = json.loads(json.dumps(run.memory))
    column = entropy_coef(BATCH, run).column("entropy_coef")
    assert column.shape == BATCH.score.shape and column.unique().numel() == 1
    return column[0].item()


def test_the_coefficient_follows_the_target() -> None:
    run = SimpleNamespace(memory={})
    assert entropy_coef(BATCH, run).column("entropy_coef").sum() == 0, "nothing is known before the first step"
    applied = [saw(run, [level]) for level in (0.1, 0.2, 0.15, 0.5, 0.5, 0.1, 0.5, 0.5, 0.5, 0.1)]
    assert applied == pytest.approx([0.005, 0.01, 0.015, 0, 0, 0.01, 0, 0, 0, 0.005])
    assert run.memory["entropy_adaptive"]["coef"] == pytest.approx(0.005)


def test_it_stays_between_0_and_1() -> None:
    run, fast = SimpleNamespace(memory={}), FollowEntropy(delta=0.4)
    assert [saw(run, [0.0], fast) for _ in range(4)] == pytest.approx([0.4, 0.8, 1.0, 1.0])
    assert [saw(run, [9.0], fast) for _ in range(4)] == [0, 0, 0, 0]
    assert run.memory["entropy_adaptive"]["coef"] == 0.0


def test_the_entropy_is_the_mean_over_the_updates_of_the_step() -> None:
    run = SimpleNamespace(memory={})
    assert saw(run, [0.0, 0.35]) == 0.005 and saw(run, [0.0, 0.45]) == 0.0


def test_a_step_without_a_live_token_changes_nothing() -> None:
    run = SimpleNamespace(memory={})
    saw(run, [0.1])
    before = json.dumps(run.memory)
    dead = replace(BATCH, graded=torch.zeros(len(BATCH), dtype=torch.bool))
    now = Now(logp=BATCH.logp_old, entropy=torch.full_like(BATCH.logp_old, float("nan")))
    FollowEntropy()(run, Update(batch=dead, now=now, metrics={}, index=0, last=True))
    assert json.dumps(run.memory) == before


def with_coef(coef: float) -> Batch:
    return BATCH.with_columns(entropy_coef=torch.full_like(BATCH.score, coef))


def test_at_coefficient_zero_it_is_grpo_else_the_fixed_bonus() -> None:
    now = make_now(BATCH)
    got, want = on_leaves(METHOD, with_coef(0.0), now), on_leaves(grpo.method(), BATCH, now)
    assert got[0] == want[0] and torch.equal(got[1], want[1]) and (got[2] == 0).all() and (want[1] != 0).any()
    got, want = on_leaves(METHOD, with_coef(0.001), now), on_leaves(entropy_bonus.method(), BATCH, now)
    assert got[0] == pytest.approx(want[0], abs=1e-15) and (got[2] != 0).any()
    torch.testing.assert_close(got[2], want[2], rtol=1e-12, atol=0)
    metrics = METHOD.loss(now, METHOD.weigh(with_coef(0.25)))[1]
    assert metrics["entropy_coef"] == (0.25 * len(BATCH), len(BATCH))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        FollowEntropy(target=-1.0)
