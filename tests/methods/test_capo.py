"""CAPO: GRPO until calibrated and at infinite thresholds, who is rejected, the floor, and how thresholds come about."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rekindle.core.curvature import head_excess, head_shifts
from rekindle.core.method import Descent
from rekindle.core.types import Batch, Now, Update
from rekindle.methods import capo, grpo
from rekindle.methods.capo import Calibrate, Trusted, with_limits
from tests.batches import make_batch, make_now
from tests.methods.stage import on_leaves

METHOD = capo.method()
INF = float("inf")


def scored(limit_f: float = INF, limit_h: float = INF, lr: float = 0.1, seed: int = 0) -> Batch:
    """A batch with the columns of a scoring pass and of the source."""
    batch = make_batch(B=16, T=8, seed=seed, ungraded=True)
    rng = torch.Generator().manual_seed(seed)
    size = torch.rand(batch.mask.shape, generator=rng).double() * 3
    rows = {"step_lr": lr, "limit_f": limit_f, "limit_h": limit_h}
    columns = {name: torch.full_like(batch.score, value) for name, value in rows.items()}
    return batch.with_columns(head_size=size, head_curve=size / 9, **columns)


def a_run(lr: float = 0.1) -> SimpleNamespace:
    return SimpleNamespace(memory={}, record=SimpleNamespace(descent=Descent(lr=lr)))


def after_step(run: SimpleNamespace, part: Calibrate, seeds: tuple[int, ...] = (0, 1)) -> list[float] | None:
    """A step of two updates; the limits that the run has then, by way of a checkpoint."""
    for i, seed in enumerate(seeds):
        batch = with_limits(scored(seed=seed), run)
        part(run, Update(batch=batch, now=make_now(batch), metrics={}, index=i, last=i + 1 == len(seeds)))
    run.memory = json.loads(json.dumps(run.memory))
    return run.memory["capo"]["limits"]


def test_without_thresholds_it_is_grpo() -> None:
    batch = scored()
    now = make_now(batch)
    got, want = on_leaves(METHOD, batch, now), on_leaves(grpo.method(), batch, now)
    assert got[0] == want[0] and torch.equal(got[1], want[1]) and (want[1] != 0).any()


def test_tokens_beyond_a_threshold_get_exactly_no_gradient_and_leave_the_denominator() -> None:
    free = scored()
    fisher, objective = head_shifts(free)
    limit_f, limit_h = fisher[free.live].quantile(0.9).item(), objective[free.live].abs().quantile(0.9).item()
    batch = scored(limit_f, limit_h)
    kept = Trusted(floor=0.0)(make_now(batch), batch)
    assert torch.equal(kept, batch.live & (fisher < limit_f) & (objective.abs() < limit_h))
    assert 0 < (batch.live & ~kept).sum() < 0.3 * batch.live.sum()
    now = make_now(batch)
    got, want = on_leaves(METHOD, batch, now)[1], on_leaves(grpo.method(), batch, now)[1]
    assert (got[~kept] == 0).all()
    torch.testing.assert_close(got[kept], want[kept] * batch.live.sum() / kept.sum(), rtol=1e-12, atol=0)
    only_f = Trusted(floor=0.0)(now, scored(limit_f, INF))
    assert torch.equal(only_f, batch.live & (fisher < limit_f))


def test_the_floor_keeps_half_of_the_tokens_that_teach_the_least_excessive_ones() -> None:
    batch = scored(1e-12, 1e-12)
    taught = batch.live & (batch.advantage != 0)
    kept = Trusted()(make_now(batch), batch) & taught
    assert kept.sum() == (taught.sum() + 1) // 2
    excess = head_excess(batch)
    assert excess[kept].max() <= excess[taught & ~kept].min()
    same = batch.with_columns(head_size=torch.ones_like(batch.advantage), advantage=torch.ones_like(batch.advantage))
    same = replace(same, graded=torch.ones(16, dtype=torch.bool))
    same = same.with_columns(head_curve=torch.zeros_like(batch.advantage))
    rows = Trusted()(make_now(same), same)
    order = same.uid.argsort()
    first = rows[order][same.live[order]]
    half = (len(first) + 1) // 2
    assert first[:half].all() and not first[half:].any(), "ties by uid, then position"


def test_row_order_is_invisible() -> None:
    batch = scored(0.005, 0.1)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    now = make_now(batch)
    there = Now(logp=now.logp[order], entropy=now.entropy[order])
    want = Trusted()(now, batch)
    assert torch.equal(Trusted()(there, batch.take(order)), want[order]) and not want[batch.live].all()


def test_thresholds_are_the_quantiles_of_the_first_steps() -> None:
    run, part = a_run(), Calibrate(steps=3)
    assert with_limits(scored(), run).column("limit_f").isinf().all()
    assert after_step(run, part) is None and after_step(run, part) is None
    limits = after_step(run, part)
    want = []
    for k in (0, 1):
        each = []
        for seed in (0, 1):
            batch = scored(seed=seed)
            values = head_shifts(batch)[k].abs()[batch.live & (batch.advantage != 0)].sort().values
            each.append(values[-(-92 * len(values) // 100) - 1].item())
        want.append(sum(each) / 2)
    assert limits is not None and limits == pytest.approx(want, rel=1e-12)
    assert after_step(run, part, (2, 3)) == limits, "they stay"
    batch = with_limits(scored(), run)
    assert batch.column("limit_f").unique().tolist() == limits[:1] and batch.column("step_lr")[0] == 0.1
    kept = Trusted()(make_now(batch), batch)
    rejected = 1 - kept.sum() / batch.live.sum()
    assert 0 < rejected < 0.16


def test_a_warm_up_begins_the_calibration_anew() -> None:
    run, part = a_run(lr=0.0), Calibrate(steps=2)
    for lr in (0.0, 0.05, 0.1):
        run.record = SimpleNamespace(descent=Descent(lr=lr))
        assert after_step(run, part) is None
    limits = after_step(run, part)
    still = a_run(lr=0.1)
    after_step(still, part)
    assert limits is not None and limits == pytest.approx(after_step(still, part))


def test_steps_that_teach_nothing_are_not_calibrated_on() -> None:
    run = a_run()
    dead = with_limits(scored(), run)
    dead = dead.with_columns(advantage=torch.zeros_like(dead.advantage))
    Calibrate(steps=1)(run, Update(batch=dead, now=make_now(dead), metrics={}, index=0, last=True))
    assert run.memory["capo"]["limits"] is None
    assert Trusted()(make_now(dead), dead).sum() == dead.live.sum()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="floor of kept tokens"):
        Trusted(floor=1.5)
