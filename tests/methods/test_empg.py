"""EMPG: the source's worked example, its invariants, a slow loop over steps, and GRPO at the neutral setting."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rekindle.core.types import Batch, entropy_of
from rekindle.methods import empg, grpo
from rekindle.methods.empg import StepModulation
from rekindle.tokens.rollouts import Rollouts
from tests.batches import hand_batch
from tests.methods.made import group_rollouts
from tests.methods.stage import collected, on_leaves

METHOD = empg.method()
ROLLOUTS = Rollouts.concat([group_rollouts(g) for g in (0, 1, 5, 6)])


def spans(entropy: list[list[list[float]]], group: list[int] | None = None) -> Batch:
    """Rows of steps of token entropies, all in one group unless said."""
    flat = [[h for step in row for h in step] for row in entropy]
    ids = [[i for i, step in enumerate(row) for _ in step] for row in entropy]
    batch = hand_batch([float(i % 2 == 0) for i in range(len(flat))], [len(row) for row in flat], group)
    width = batch.mask.shape[1]
    column = torch.tensor([row + [math.nan] * (width - len(row)) for row in flat], dtype=torch.float64)
    segment = torch.tensor([row + [-1] * (width - len(row)) for row in ids])
    return batch.with_columns(entropy_old=column, segment=segment)


def modulated(batch: Batch, advantage: list[float], part: StepModulation | None = None) -> Tensor:
    spread = torch.tensor(advantage, dtype=torch.float64)[:, None].where(batch.live, 0.0)
    return (part or StepModulation())(spread, batch)


def by_step(got: Tensor, batch: Batch) -> list[list[float]]:
    """The value of each step; all tokens of a step must have it."""
    out = []
    for row, ids in zip(got, batch.column("segment"), strict=True):
        values = [row[ids == s].unique() for s in ids[ids >= 0].unique().tolist()]
        assert all(len(v) == 1 for v in values)
        out.append([v.item() for v in values])
    return out


HAND = spans([[[0.2], [1.0], [0.4]], [[0.6], [1.4]]])


def test_worked_example() -> None:
    raw = by_step(modulated(HAND, [1, -1], StepModulation(center=False)), HAND)
    assert raw[0] == pytest.approx([1.50301, 0.82996, 1.22881], abs=1e-5)
    assert raw[1] == pytest.approx([-1.00338, -0.53404], abs=1e-5)
    got = by_step(modulated(HAND, [1, -1]), HAND)
    assert got[0] == pytest.approx([1.09814, 0.42509, 0.82394], abs=1e-5)
    assert got[1] == pytest.approx([-1.40825, -0.93891], abs=1e-5)
    g = by_step(modulated(HAND, [1, -1], StepModulation(zeta=0.0, center=False)), HAND)
    assert g[0] == pytest.approx([1.45167, 0.74531, 1.22881], abs=1e-5)
    assert g[1] == pytest.approx([-1.04017, -0.53404], abs=1e-5)


def test_the_proposition_behind_it() -> None:
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    norms = (torch.eye(3, dtype=torch.float64) - p).square().sum(dim=1)
    assert (p * norms).sum().item() == pytest.approx(0.46) == 1 - p.square().sum().item()
    assert entropy_of(p.log()[None]).item() > 0


def test_a_step_counts_once_whatever_its_length() -> None:
    long = spans([[[0.1, 0.3], [1.0] * 5, [0.4]], [[0.6], [1.5, 1.3, 1.4]]])
    want, got = (by_step(modulated(b, [1, -1]), b) for b in (HAND, long))
    assert got[0] == pytest.approx(want[0], abs=1e-12) and got[1] == pytest.approx(want[1], abs=1e-12)


def test_means_over_steps_signs_and_bounds() -> None:
    g = by_step(modulated(HAND, [1, 1], StepModulation(zeta=0.0, center=False)), HAND)
    scale = [v for row in g for v in row]
    assert sum(scale) / 5 == pytest.approx(1.0, abs=1e-12)
    entropies = [0.2, 1.0, 0.4, 0.6, 1.4]
    assert [v for _, v in sorted(zip(entropies, scale, strict=True))] == sorted(scale, reverse=True)
    assert abs(sum(v for row in by_step(modulated(HAND, [1, -1]), HAND) for v in row)) < 1e-12
    full, plain = (by_step(modulated(HAND, [1, -1], StepModulation(zeta=z, center=False)), HAND) for z in (0.1, 0.0))
    bonus = [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(full, plain, strict=True)]
    assert all(row[-1] == pytest.approx(0, abs=1e-15) for row in bonus), "the last step leads nowhere"
    assert all(0.1 * math.exp(-1) <= b + 1e-9 and b <= 0.1 + 1e-12 for row in bonus for b in row[:-1])


def test_an_affine_change_of_all_entropies_changes_nothing() -> None:
    other = HAND.with_columns(entropy_old=3 * HAND.column("entropy_old") + 2)
    torch.testing.assert_close(modulated(other, [1, -1]), modulated(HAND, [1, -1]), rtol=0, atol=1e-7)


def test_equal_entropies_leave_the_bonus_only() -> None:
    batch = spans([[[0.5], [0.5]], [[0.5]]])
    got = by_step(modulated(batch, [1, -1], StepModulation(center=False)), batch)
    assert got[0] == pytest.approx([1.1, 1.0]) and got[1] == pytest.approx([-1.0])


def test_groups_without_an_advantage_are_left_out() -> None:
    both = spans([[[0.2], [1.0], [0.4]], [[0.6], [1.4]], [[9.0], [0.0]]], group=[0, 0, 1])
    got = modulated(both, [1, -1, 0])
    assert (got[2] == 0).all()
    torch.testing.assert_close(got[:2], modulated(HAND, [1, -1]), rtol=0, atol=0)
    assert (modulated(both, [0, 0, 0]) == 0).all()
    single = spans([[[0.7]]])
    assert modulated(single, [1]).tolist() == [[0.0]], "a single step of the batch is its own mean"


def test_an_ungraded_row_has_no_steps() -> None:
    graded = replace(HAND, graded=torch.tensor([True, False]))
    got = modulated(graded, [1, 0])
    assert (got[1] == 0).all() and got[0].isfinite().all()
    alone = spans([[[0.2], [1.0], [0.4]]])
    torch.testing.assert_close(got[0, :3], modulated(alone, [1])[0], rtol=0, atol=0)


def test_against_a_slow_loop() -> None:
    plain = collected(METHOD.replace(modulate=()), ROLLOUTS)[1]
    batch = collected(METHOD, ROLLOUTS)[1]
    got = batch.advantage
    steps: dict[tuple[int, int], list[int]] = {}
    segment, entropy = batch.column("segment"), batch.column("entropy_old")
    taught = {int(g) for g, row in zip(plain.group, plain.advantage, strict=True) if (row != 0).any()}
    for b, t in plain.live.nonzero().tolist():
        if int(plain.group[b]) in taught:
            steps.setdefault((b, int(segment[b, t])), []).append(t)
    mean = {key: sum(entropy[key[0], t].item() for t in at) / len(at) for key, at in steps.items()}
    low, high = min(mean.values()), max(mean.values())
    h = {key: (m - low) / (high - low + 1e-8) for key, m in mean.items()}
    total = sum(math.exp(-v) for v in h.values()) / len(h)
    value = {
        (b, s): plain.advantage[b, at[0]].item() * math.exp(-h[b, s]) / total
        + (0.1 * math.exp(-h[b, s + 1]) if (b, s + 1) in h else 0.0)
        for (b, s), at in steps.items()
    }
    centre = sum(value.values()) / len(value)
    assert len(value) > 20
    for (b, s), at in steps.items():
        assert got[b, at].tolist() == pytest.approx([value[b, s] - centre] * len(at), abs=1e-12)


def test_the_neutral_setting_is_grpo() -> None:
    neutral = METHOD.replace(modulate=(StepModulation(k=0.0, zeta=0.0, center=False),))
    (_, ours), (stage, theirs) = collected(neutral, ROLLOUTS), collected(grpo.method(), ROLLOUTS)
    torch.testing.assert_close(ours.advantage, theirs.advantage, rtol=1e-12, atol=1e-12)
    now = stage.policy(theirs).detach()
    got, want = on_leaves(neutral, ours, now), on_leaves(grpo.method(), theirs, now)
    torch.testing.assert_close(got[1], want[1], rtol=1e-12, atol=1e-15)
    assert (want[1] != 0).any() and (want[2] == 0).all()
    centred = collected(METHOD.replace(modulate=(StepModulation(k=0.0, zeta=0.0),)), ROLLOUTS)[1]
    shift = (centred.advantage - theirs.advantage)[theirs.live & (theirs.advantage != 0)]
    assert shift.max() - shift.min() < 1e-12, "centring moves every step alike"
