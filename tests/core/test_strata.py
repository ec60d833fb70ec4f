"""Stratified advantages: the source's numbers, what they do not depend on, a slow loop, and what is reported."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rekindle.core.advantages import GroupNormalized
from rekindle.core.strata import Stratified, strata
from rekindle.core.types import Batch, MissingColumn, mean_metrics
from tests.batches import hand_batch, make_batch

HAND = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
HALVES = [0, 0, 0, 0, 1, 1, 1, 1]


def kinds(score: list[float], stratum: list[int], group: list[int] | None = None) -> Batch:
    return hand_batch(score, group=group).with_columns(stratum=torch.tensor(stratum))


def rows(part: Stratified, batch: Batch) -> list[float]:
    return part(batch)[:, 0].tolist()


def drawn(seed: int = 0) -> Batch:
    """Groups of unequal size in shuffled order, noisy scores, up to three strata a group."""
    batch = make_batch(B=40, seed=seed, shaped=True)
    rng = torch.Generator().manual_seed(seed)
    return batch.with_columns(stratum=torch.randint(0, 3, (40,), generator=rng))


def test_worked_example_with_the_population_std() -> None:
    batch = kinds(HAND, HALVES)
    exact = {"std": "population", "eps": 1e-300}
    small, large = 0.5773502, 1.7320508
    assert rows(Stratified(alpha=0.0, **exact), batch) == [-1, -1, 1, -1, 1, 1, -1, 1]  # type: ignore[arg-type]
    want = [-small, -small, large, -small, small, small, -large, small]
    assert rows(Stratified(alpha=1.0, **exact), batch) == pytest.approx(want, abs=1e-6)  # type: ignore[arg-type]
    want = [-0.7464, -0.7464, 1.4392, -0.7464, 0.7464, 0.7464, -1.4392, 0.7464]
    assert rows(Stratified(**exact), batch) == pytest.approx(want, abs=1e-4)  # type: ignore[arg-type]


def test_worked_example_with_the_sample_std() -> None:
    batch = kinds(HAND, HALVES)
    assert [abs(a) for a in rows(Stratified(alpha=0.0), batch)] == pytest.approx([0.9354] * 8, abs=1e-4)
    want = [-0.5, -0.5, 1.5, -0.5, 0.5, 0.5, -1.5, 0.5]
    assert rows(Stratified(alpha=1.0), batch) == pytest.approx(want, abs=1e-5)
    want = [-0.6742, -0.6742, 1.2742, -0.6742, 0.6742, 0.6742, -1.2742, 0.6742]
    assert rows(Stratified(), batch) == pytest.approx(want, abs=1e-4)


def test_worked_example_of_the_report() -> None:
    report = mean_metrics(Stratified().report(kinds(HAND, HALVES)))
    assert report == pytest.approx({"strata/per_prompt": 2, "strata/singletons": 0, "strata/between": 0.0625 / 0.25})
    none = Stratified().report(kinds([1, 1, 1], [0, 0, 1]))
    assert mean_metrics(none) == pytest.approx({"strata/per_prompt": 2, "strata/singletons": 1 / 3})


@pytest.mark.parametrize("std", ["sample", "population", "none"])
def test_alpha_0_and_a_single_stratum_are_grpo(std: str) -> None:
    batch = drawn()
    host = GroupNormalized(std=std)(batch)  # type: ignore[arg-type]
    blind = batch.with_columns(stratum=torch.zeros(len(batch), dtype=torch.int64))
    for part, some in ((Stratified(alpha=0.0, std=std), batch), (Stratified(std=std), blind)):  # type: ignore[arg-type]
        torch.testing.assert_close(part(some), host, rtol=1e-12, atol=1e-12)
    assert not torch.equal(Stratified(std=std)(batch), host)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(3))
def test_against_a_slow_loop(seed: int) -> None:
    batch = drawn(seed)
    score, group, stratum = (x.tolist() for x in (batch.score, batch.group, batch.column("stratum")))

    def scaled(i: int, members: list[int]) -> float:
        values = [score[j] for j in members]
        if len(set(values)) == 1:
            return 0.0
        return (score[i] - statistics.fmean(values)) / (statistics.stdev(values) + 1e-6)

    got = Stratified(alpha=0.3)(batch)
    for i in range(len(batch)):
        all_rows = [j for j in range(len(batch)) if group[j] == group[i]]
        own = [j for j in all_rows if stratum[j] == stratum[i]]
        want = 0.3 * scaled(i, own) + 0.7 * scaled(i, all_rows)
        assert got[i][batch.live[i]].tolist() == pytest.approx([want] * int(batch.live[i].sum()), rel=1e-9)
        assert (got[i][~batch.live[i]] == 0).all()


def test_within_a_stratum_pure_values_sum_to_0_with_variance_1() -> None:
    batch = drawn()
    a = Stratified(alpha=1.0, std="population", eps=1e-300)(batch).abs().amax(dim=1)
    signed = Stratified(alpha=1.0, std="population", eps=1e-300)(batch).sum(dim=1) / batch.live.sum(dim=1).clamp(min=1)
    own = strata(batch)
    for k in own.unique().tolist():
        inside = signed[own == k]
        varied = batch.score[own == k].unique().numel() > 1
        assert inside.sum().item() == pytest.approx(0, abs=1e-9)
        assert inside.square().mean().item() == pytest.approx(1.0 if varied else 0.0, abs=1e-9)
    assert (a > 0).any()


def test_a_singleton_gets_nothing_within_or_the_groups_value() -> None:
    batch = kinds([0, 1, 0, 1], [0, 0, 0, 7])
    group = rows(Stratified(alpha=0.0), batch)
    assert rows(Stratified(alpha=1.0), batch)[3] == 0.0
    assert rows(Stratified(alpha=0.6), batch)[3] == pytest.approx(0.4 * group[3])
    assert rows(Stratified(alpha=0.6, singleton="gn"), batch)[3] == pytest.approx(group[3])
    alone = kinds([0, 1, 0, 1], [0, 1, 2, 3])
    assert rows(Stratified(), alone) == pytest.approx([0.4 * a for a in group]), "GRPO, smaller"
    assert rows(Stratified(singleton="gn"), alone) == pytest.approx(group)


def test_names_of_strata_and_row_order_do_not_matter() -> None:
    batch = drawn()
    want = Stratified()(batch)
    renamed = batch.with_columns(stratum=-5 * batch.column("stratum") + 100)
    torch.testing.assert_close(Stratified()(renamed), want, rtol=0, atol=1e-12)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(Stratified()(batch.take(order)), want[order], rtol=0, atol=1e-12)


def test_pure_strata_ignore_any_affine_change_a_stratum() -> None:
    batch = drawn()
    part = Stratified(alpha=1.0, eps=1e-300)
    own = batch.column("stratum")
    other = replace(batch, score=batch.score * (1.0 + own) + 3.0 * own)
    torch.testing.assert_close(part(other), part(batch), rtol=0, atol=1e-9)
    assert not torch.allclose(Stratified(eps=1e-300)(other), Stratified(eps=1e-300)(batch))


def test_strata_never_cross_groups() -> None:
    both = kinds([0, 1, 1, 1], [0, 0, 0, 0], [3, 3, 9, 9])
    assert rows(Stratified(alpha=1.0), both)[2:] == [0, 0] and strata(both).tolist() == [0, 0, 1, 1]


def test_an_ungraded_row_is_in_no_stratum() -> None:
    batch = kinds([0, 1, math.nan], [0, 0, 0])
    batch = replace(batch, graded=torch.tensor([True, True, False]))
    assert rows(Stratified(), batch)[2] == 0.0
    pair: Tensor = Stratified()(kinds([0, 1], [0, 0]))
    assert rows(Stratified(), batch)[:2] == pytest.approx(pair[:, 0].tolist())
    assert mean_metrics(Stratified().report(batch))["strata/per_prompt"] == 1


def test_without_the_column_it_says_so() -> None:
    with pytest.raises(MissingColumn, match="'stratum'"):
        Stratified()(hand_batch([0, 1]))


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_is_a_share(alpha: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        Stratified(alpha=alpha)
