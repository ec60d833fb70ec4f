"""The controller's worked numbers, its state over a step of several updates, and when a copy is refreshed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from rekindle.core.gae import Returns, gae
from rekindle.core.kl_control import FollowKL, KLCoefficient, Refresh, controlled
from rekindle.core.returns import KLByCoefficient, KLInReward
from rekindle.core.types import Batch, Now, Update
from tests.batches import hand_batch, make_batch


@dataclass
class Watched:
    """What the parts ask of a run."""

    step_index: int = 0
    memory: dict[str, Any] = field(default_factory=dict)
    references: dict[str, Any] = field(default_factory=lambda: {"mask": None})
    copied: list[tuple[int, str]] = field(default_factory=list)

    def snapshot(self, name: str) -> None:
        self.copied.append((self.step_index, name))


def update(batch: Batch, last: bool = True) -> Update:
    return Update(batch=batch, now=Now(logp=batch.logp_old, entropy=batch.logp_old), metrics={}, index=0, last=last)


def gap(*kl: float) -> Batch:
    old = torch.zeros(len(kl), 1, dtype=torch.float64)
    return hand_batch([0.0] * len(kl), logp_old=old, logp_ref=-torch.tensor(kl, dtype=torch.float64)[:, None])


@pytest.mark.parametrize(("kl", "coef"), [(0.05, 0.098), (0.11, 0.101), (0.5, 0.102), (-3.0, 0.098)])
def test_the_coefficient_moves_by_two_in_a_hundred_at_the_most(kl: float, coef: float) -> None:
    assert controlled(0.1, kl, 0.1) == pytest.approx(coef)
    assert 0.98 <= controlled(1.0, kl, 0.1) <= 1.02


def test_fifty_steps_far_above_the_target() -> None:
    coef = 0.1
    for _ in range(50):
        coef = controlled(coef, 9.0, 0.1)
    assert coef == pytest.approx(0.2692, abs=5e-5)


def test_the_step_moves_it_once_by_the_mean_over_its_tokens() -> None:
    run, part = Watched(), FollowKL(target=0.1)
    assert (KLCoefficient(start=0.1)(gap(0.0, 0.0), run).column("kl_coef") == 0.1).all()
    part(run, update(gap(0.3, 0.1), last=False))
    part(run, update(gap(-0.07), last=True))
    assert run.memory["kl_control"] == {"coef": pytest.approx(0.101), "sum": 0.0, "tokens": 0}
    assert KLCoefficient(start=0.1)(gap(0.0), run).column("kl_coef").item() == pytest.approx(0.101)


def test_no_target_and_no_tokens_leave_it() -> None:
    for part, batch in ((FollowKL(target=None), gap(5.0)), (FollowKL(), hand_batch([1.0], graded=[False]))):
        run = Watched()
        batch = (
            batch
            if "logp_ref" in batch.extra
            else batch.with_columns(logp_old=torch.ones(1, 1), logp_ref=torch.ones(1, 1))
        )
        KLCoefficient(start=0.1)(batch, run)
        part(run, update(batch))
        assert run.memory["kl_control"]["coef"] == 0.1
    with pytest.raises(ValueError, match="above 0 in nats"):
        FollowKL(target=0.0)


def test_a_copy_is_refreshed_after_every_so_many_steps() -> None:
    run, part = Watched(), Refresh(name="mask", every=5)
    for run.step_index in range(12):
        part(run, update(gap(0.0), last=False))
        part(run, update(gap(0.0)))
    assert run.copied == [(4, "mask"), (9, "mask")]
    Refresh(name="mask", every=0)(run, update(gap(0.0)))
    Refresh(name="other", every=1)(run, update(gap(0.0)))
    assert len(run.copied) == 2
    with pytest.raises(ValueError, match="0 for never"):
        Refresh(name="mask", every=-1)


def test_the_reward_is_charged_by_the_column() -> None:
    """Token 0 of the worked example: pi .3, reference .25, coefficient .1."""
    old, ref = (torch.tensor([[math.log(p)]], dtype=torch.float64) for p in (0.3, 0.25))
    batch = hand_batch([0.0], logp_old=old, logp_ref=ref, kl_coef=torch.tensor([0.1], dtype=torch.float64))
    assert KLByCoefficient()(batch).column("reward").item() == pytest.approx(-0.018232, abs=1e-6)
    assert KLByCoefficient().report(batch) == {"kl_coef": (pytest.approx(0.1), 1)}
    many = make_batch(shaped=True).with_columns(kl_coef=torch.full((12,), 0.2, dtype=torch.float64))
    ours, theirs = KLByCoefficient(estimator="k3")(many), KLInReward(coef=0.2, estimator="k3")(many)
    assert torch.equal(ours.column("reward"), theirs.column("reward"))


def test_returns_by_token_sum_the_column() -> None:
    batch = make_batch(shaped=True)
    rng = torch.Generator().manual_seed(3)
    reward, value = (torch.randn(batch.mask.shape, generator=rng, dtype=torch.float64) for _ in range(2))
    batch = batch.with_columns(reward=reward, value_old=value)
    got = Returns(gamma=0.9, lam=0.8, by_token=True)(batch).column("returns")
    clean = value.where(batch.live, 0.0)
    assert torch.allclose(got, gae(reward, clean, batch.live, 0.9, 0.8) + clean)
    assert not torch.allclose(got, Returns(gamma=0.9, lam=0.8)(batch).column("returns"))
