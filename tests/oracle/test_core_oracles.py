"""Every estimator, aggregate and objective of core against slow literal loops over Python floats, on random batches."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from rekindle.core.advantages import BatchWhitened, GroupNormalized, LeaveOneOut
from rekindle.core.aggregate import FixedLength, PromptMean, SequenceMean, TokenMean
from rekindle.core.objectives import Clip
from rekindle.core.segments import segment_mean, segments
from rekindle.core.terms import EntropyBonus, KLToReference
from rekindle.core.types import Batch, Now
from tests.batches import DELIMITER, assert_alive, make_batch, make_now

SEEDS = range(6)
seeds = pytest.mark.parametrize("seed", SEEDS)


def batch_of(seed: int) -> Batch:
    batch = make_batch(B=11 + seed, T=7 + seed, seed=seed, ungraded=seed % 2 == 0, shaped=seed % 3 != 0)
    assert_alive(batch)
    return batch


def close(got: torch.Tensor, want: list[list[float]]) -> None:
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def peers(batch: Batch, i: int) -> list[float]:
    """Scores of the graded rows of row i's group, row i among them if graded."""
    group, graded, score = batch.group.tolist(), batch.graded.tolist(), batch.score.tolist()
    return [score[j] for j in range(len(score)) if graded[j] and group[j] == group[i]]


def spread(batch: Batch, value: list[float]) -> list[list[float]]:
    live = batch.live.tolist()
    return [[value[i] if on else 0.0 for on in row] for i, row in enumerate(live)]


def group_normalized(batch: Batch, std: str, eps: float) -> list[float]:
    out = []
    for i, score in enumerate(batch.score.tolist()):
        others = peers(batch, i)
        if not others or max(others) == min(others):
            out.append(0.0)
            continue
        scale = {"sample": statistics.stdev, "population": statistics.pstdev, "none": lambda _: 1.0 - eps}[std](others)
        out.append((score - statistics.fmean(others)) / (scale + eps))
    return out


def leave_one_out(batch: Batch) -> list[float]:
    out = []
    for i, score in enumerate(batch.score.tolist()):
        others = peers(batch, i)
        if batch.graded[i]:
            others.remove(score)
        out.append(score - statistics.fmean(others) if others else 0.0)
    return out


@seeds
@pytest.mark.parametrize("std", ["sample", "population", "none"])
def test_group_normalized(seed: int, std) -> None:
    batch = batch_of(seed)
    close(GroupNormalized(std=std, eps=1e-4)(batch), spread(batch, group_normalized(batch, std, 1e-4)))


@seeds
def test_leave_one_out(seed: int) -> None:
    batch = batch_of(seed)
    close(LeaveOneOut()(batch), spread(batch, leave_one_out(batch)))


@seeds
@pytest.mark.parametrize("ddof", [0, 1])
def test_batch_whitened(seed: int, ddof: int) -> None:
    batch = batch_of(seed)
    row, live = group_normalized(batch, "none", 0.0), batch.live.tolist()
    tokens = [row[i] for i in range(len(row)) for on in live[i] if on]
    mean = statistics.fmean(tokens)
    var = sum((x - mean) ** 2 for x in tokens) / (len(tokens) - ddof)
    want = [[(row[i] - mean) / math.sqrt(var + 1e-8) if on else 0.0 for on in live[i]] for i in range(len(row))]
    close(BatchWhitened(ddof=ddof)(batch), want)


def weights_by_loop(batch: Batch, kept: list[list[bool]], how: str, length: int) -> list[list[float]]:
    group, count = batch.group.tolist(), [sum(row) for row in kept]
    prompts = {g for g, n in zip(group, count, strict=True) if n}
    live_rows = sum(any(row) for row in batch.live.tolist())
    out = []
    for i, row in enumerate(kept):
        in_prompt = sum(n for g, n in zip(group, count, strict=True) if g == group[i])
        size = {
            "token": sum(count),
            "sequence": count[i] * sum(n > 0 for n in count),
            "prompt": in_prompt * len(prompts),
            "fixed": live_rows * length,
        }[how]
        out.append([1 / size if on else 0.0 for on in row])
    return out


@seeds
@pytest.mark.parametrize(
    ("part", "how"),
    [(TokenMean(), "token"), (SequenceMean(), "sequence"), (PromptMean(), "prompt"), (FixedLength(13), "fixed")],
    ids=str,
)
def test_aggregates(seed: int, part, how: str) -> None:
    batch = batch_of(seed)
    kept = batch.live & (torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.6)
    kept[batch.group == batch.group[0]] = False  # a prompt that loses every token
    close(part(batch, kept), weights_by_loop(batch, kept.tolist(), how, 13))


def ratios_by_loop(now: Now, batch: Batch, level: str) -> list[list[float]]:
    new, old, live = now.logp.tolist(), batch.logp_old.tolist(), batch.live.tolist()
    segment = batch.column("segment").tolist()
    out = []
    for i, row in enumerate(live):
        d = [max(-20.0, min(20.0, new[i][t] - old[i][t])) for t in range(len(row))]
        ratio = []
        for t, on in enumerate(row):
            same = {
                "token": [t],
                "sequence": [u for u, also in enumerate(row) if also],
                "segment": [u for u, also in enumerate(row) if also and segment[i][u] == segment[i][t]],
            }[level]
            ratio.append(math.exp(statistics.fmean(d[u] for u in same)) if on else 1.0)
        out.append(ratio)
    return out


def clip_by_loop(ratio: float, a: float, low: float, high: float, dual: float | None) -> tuple[float, bool]:
    """(loss of one token, whether it passes gradient)."""
    free, bound = -a * ratio, -a * min(max(ratio, low), high)
    loss, passes = max(free, bound), free >= bound
    if dual is not None and a < 0 and -dual * a < loss:
        return -dual * a, False
    return loss, passes


@seeds
@pytest.mark.parametrize("level", ["token", "sequence", "segment"])
@pytest.mark.parametrize("dual", [None, 1.25])
def test_clip(seed: int, level, dual: float | None) -> None:
    batch = batch_of(seed)
    now = make_now(batch, seed + 50)
    low, high = (0.9, 1.15) if level == "token" else (0.95, 1.05)
    loss, metrics = Clip(low=low, high=high, dual=dual, level=level)(now, batch)
    ratio, advantage, live = ratios_by_loop(now, batch, level), batch.advantage.tolist(), batch.live.tolist()
    want, grad, counts = [], [], {"clip_high": 0, "clip_low": 0, "outside": 0, "clip_dual": 0}
    for i, row in enumerate(live):
        pairs = [clip_by_loop(r, a, low, high, dual) for r, a in zip(ratio[i], advantage[i], strict=True)]
        want.append([value if on else 0.0 for (value, _), on in zip(pairs, row, strict=True)])
        slope = [-a * r if passes else 0.0 for (_, passes), a, r in zip(pairs, advantage[i], ratio[i], strict=True)]
        grad.append([g if on else 0.0 for g, on in zip(slope, row, strict=True)])
        for r, a, on in zip(ratio[i], advantage[i], row, strict=True):
            counts["clip_high"] += on and r > high and a > 0
            counts["clip_low"] += on and r < low and a < 0
            counts["outside"] += on and not low <= r <= high
            counts["clip_dual"] += on and dual is not None and r > dual and a < 0
    close(loss, want)
    close(torch.autograd.grad(loss.sum(), now.logp)[0], grad)
    assert counts["clip_high"] > 0 and counts["clip_low"] > 0
    assert {n: metrics[n][0] for n in counts if n in metrics} == {n: c for n, c in counts.items() if n in metrics}
    assert metrics["ratio"][0] == pytest.approx(
        sum(r for i, row in enumerate(ratio) for r, on in zip(row, live[i], strict=True) if on)
    )


@seeds
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_to_reference(seed: int, estimator) -> None:
    batch = batch_of(seed)
    now = make_now(batch, seed)
    logp, ref, live = now.logp.tolist(), batch.column("logp_ref").tolist(), batch.live.tolist()
    formula = {"k1": lambda x: -x, "k2": lambda x: x * x / 2, "k3": lambda x: math.exp(x) - x - 1}[estimator]
    want = [
        [0.2 * formula(r - p) if on else 0.0 for p, r, on in zip(*rows, strict=True)]
        for rows in zip(logp, ref, live, strict=True)
    ]
    close(KLToReference(0.2, estimator).per_token(now, batch)[0], want)


@seeds
def test_entropy_bonus(seed: int) -> None:
    batch = batch_of(seed)
    now = make_now(batch, seed)
    rows = zip(now.entropy.tolist(), batch.live.tolist(), strict=True)
    close(
        EntropyBonus(0.3).per_token(now, batch)[0],
        [[-0.3 * h if on else 0.0 for h, on in zip(*r, strict=True)] for r in rows],
    )


def steps_by_loop(tokens: list[int], mask: list[bool]) -> list[int]:
    """Cut after every delimiter, then merge each step of delimiters only into the one before it (else after it)."""
    steps: list[list[int]] = [[]]
    for t in (t for t, on in enumerate(mask) if on):
        steps[-1].append(t)
        if tokens[t] == DELIMITER:
            steps.append([])
    merged: list[list[int]] = []
    for step in (s for s in steps if s):
        blank = all(tokens[t] == DELIMITER for t in step)
        leading = len(merged) == 1 and all(tokens[t] == DELIMITER for t in merged[0])
        if merged and (blank or leading):
            merged[-1] += step
        else:
            merged.append(step)
    place = {t: k for k, step in enumerate(merged) for t in step}
    return [place.get(t, -1) for t in range(len(tokens))]


@seeds
def test_segments(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    action = torch.randint(6, 10, (200, 12), generator=rng)
    mask = torch.rand(200, 12, generator=rng) < 0.8
    got = segments(mask, action == DELIMITER)
    assert got.tolist() == [steps_by_loop(a, m) for a, m in zip(action.tolist(), mask.tolist(), strict=True)]
    x = torch.randn(200, 12, generator=rng, dtype=torch.float64)
    want = [
        [statistics.fmean(v for v, s in zip(xs, ss, strict=True) if s == mine) if mine >= 0 else 0.0 for mine in ss]
        for xs, ss in zip(x.tolist(), got.tolist(), strict=True)
    ]
    close(segment_mean(x, got), want)
