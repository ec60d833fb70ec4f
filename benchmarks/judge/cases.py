"""The tensors that both sides get: small ragged batches, their log-probs moved as a few updates would move them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rekindle.core.types import Batch
from tests.batches import make_batch, make_now

ROWS, WIDTH = 16, 9
EXTREME = 8.0  # a ratio of 2981; absolute differences of losses beyond it would be rounding of the sums


@dataclass(frozen=True)
class Case:
    """One input. logp, entropy, value [B T] float64 at the current weights; `batch` holds everything else."""

    seed: int
    batch: Batch
    logp: Tensor
    entropy: Tensor
    value: Tensor


def ragged(seed: int) -> Case:
    """Groups of unequal size in shuffled order, ragged rows with gaps, log-ratios of standard deviation 0.3."""
    batch = make_batch(ROWS, WIDTH, seed=seed)
    now = make_now(batch, seed=seed + 100, requires_grad=False)
    noise = torch.randn(5, ROWS, WIDTH, generator=_rng(seed), dtype=torch.float64)
    sampler = (batch.logp_old + 0.4 * noise[0]).clamp(max=-1e-3).where(batch.mask, 0.0)
    old = 0.5 + 0.4 * noise[1].where(batch.mask, 0.0)
    batch = batch.with_columns(
        logp_sampled=sampler,
        value_old=old.where(batch.mask, 0.0),
        score_greedy=(noise[2, :, 0] > 0).double(),
        limit=torch.full((ROWS,), float(WIDTH), dtype=torch.float64),
    )
    # TRL ranks entropies in float32: others would be ranked differently by rounding.
    entropy = now.entropy.float().double()
    return Case(seed, batch, now.logp, entropy, (old + 0.3 * noise[3]).where(batch.mask, 0.0))


def extreme(seed: int) -> Case:
    """`ragged` with log-ratios of standard deviation 1 and every fifth token at +8 or -8."""
    case = ragged(seed)
    batch, rng = case.batch, _rng(seed + 200)
    moved = torch.randn(ROWS, WIDTH, generator=rng, dtype=torch.float64)
    far = torch.rand(ROWS, WIDTH, generator=rng) < 0.2
    moved = torch.where(far, moved.sign() * EXTREME, moved)
    # log-probs that low leave room for a log-ratio of +8 below 0
    old = (batch.logp_old - EXTREME - 4).where(batch.mask, 0.0)
    sampled = (old + moved.flip(0) / 4).where(batch.mask, 0.0)
    batch = batch.with_columns(logp_old=old, logp_ref=old, logp_sampled=sampled)
    return replace(case, batch=batch, logp=(old + moved).clamp(max=-1e-3).where(batch.mask, 0.0))


def idle(seed: int) -> Case:
    """`extreme` with no advantage on every fifth row."""
    case = extreme(seed)
    advantage = case.batch.advantage.where((torch.arange(ROWS) % 5 > 0)[:, None], 0.0)
    return replace(case, batch=case.batch.with_columns(advantage=advantage))


def dead_groups(seed: int) -> Case:
    """`extreme` with no advantage on the whole of its first group, as where all of a prompt's answers are right."""
    case = extreme(seed)
    alive = (case.batch.group != case.batch.group.amin())[:, None]
    return replace(case, batch=case.batch.with_columns(advantage=case.batch.advantage.where(alive, 0.0)))


def on_policy(seed: int) -> Case:
    """`ragged` before the first update: every log-prob is that of the sampling weights."""
    case = ragged(seed)
    return replace(case, logp=case.batch.logp_old.clone())


def beyond(seed: int) -> Case:
    """`extreme` with log-ratios of +24 and -24 on two wrong rows: past the bound of +-20 that verl and we share."""
    case = extreme(seed)
    old = (case.batch.logp_old - 20).where(case.batch.mask, 0.0)
    logp = (case.logp - 20).where(case.batch.mask, 0.0)
    logp[0, 0], logp[1, 0] = old[0, 0] + 24, old[1, 0] - 24
    advantage = case.batch.advantage.clone()
    advantage[:2] = torch.where(case.batch.live[:2], -1.0, 0.0).double()
    batch = case.batch.with_columns(logp_old=old, logp_ref=old, logp_sampled=old, advantage=advantage)
    return replace(case, batch=batch, logp=logp)


def constant(seed: int) -> Case:
    """`ragged` with a group whose scores are all 1 and one whose scores are all 0."""
    case = ragged(seed)
    score = case.batch.score.clone()
    first, second = case.batch.group.unique()[:2].tolist()
    score[case.batch.group == first], score[case.batch.group == second] = 1.0, 0.0
    return replace(case, batch=_scored(case.batch, score))


def singleton(seed: int) -> Case:
    """`ragged` with two rows in groups of their own: a right one and a wrong one."""
    case = ragged(seed)
    group, score = case.batch.group.clone(), case.batch.score.clone()
    group[:2] = torch.tensor([1000, 1001])
    score[:2] = torch.tensor([1.0, 0.0], dtype=score.dtype)
    return replace(case, batch=_scored(replace(case.batch, group=group), score))


def shaped(seed: int) -> Case:
    """`ragged` with real-valued scores."""
    case = ragged(seed)
    score = case.batch.score + 0.5 * torch.randn(ROWS, generator=_rng(seed + 300), dtype=torch.float64)
    return replace(case, batch=_scored(case.batch, score))


def single_precision(seed: int) -> Case:
    """`ragged` with every score 0.7, in float32: the mean of sixteen is not 0.7."""
    case = ragged(seed)
    group = torch.zeros(ROWS, dtype=torch.int64)
    return replace(case, batch=_scored(replace(case.batch, group=group), torch.full((ROWS,), 0.7)))


def emptied(seed: int) -> Case:
    """`ragged` with two rows that have no action at all."""
    case = ragged(seed)
    mask = case.batch.mask.clone()
    mask[2:4] = False
    columns = {n: v.where(mask, 0) for n, v in case.batch.extra.items() if isinstance(v, Tensor) and v.dim() == 2}
    batch = replace(case.batch, mask=mask).with_columns(**columns)
    return replace(case, batch=batch, logp=case.logp.where(mask, 0.0), entropy=case.entropy.where(mask, 0.0))


def even(seed: int) -> Case:
    """Four groups of four adjacent rows, as TRL's trainer wants them, with real-valued scores, one group constant."""
    case = shaped(seed)
    score = case.batch.score.clone()
    score[:4] = 1.0
    return replace(case, batch=_scored(replace(case.batch, group=torch.arange(ROWS) // 4), score))


def paired(seed: int) -> Case:
    """`ragged` as eight pairs in shuffled order, of each the one response better than the other."""
    case = ragged(seed)
    order = torch.randperm(ROWS, generator=_rng(seed + 400))
    batch = replace(case.batch, group=(torch.arange(ROWS) // 2)[order])
    return replace(case, batch=_scored(batch, (torch.arange(ROWS) % 2)[order].to(batch.score.dtype)))


def ungraded(seed: int) -> Case:
    """`even groups` with two rows that could not be graded."""
    case = even(seed)
    graded = torch.ones(ROWS, dtype=torch.bool)
    graded[5], graded[10] = False, False
    return replace(case, batch=replace(case.batch, graded=graded, success=case.batch.success & graded))


def _scored(batch: Batch, score: Tensor) -> Batch:
    return replace(batch, score=score, success=score > 0.5)


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


KINDS: Mapping[str, Callable[[int], Case]] = {
    "ragged": ragged,
    "extreme": extreme,
    "idle rows": idle,
    "dead groups": dead_groups,
    "on-policy": on_policy,
    "beyond 20": beyond,
    "constant groups": constant,
    "singleton groups": singleton,
    "shaped scores": shaped,
    "float32": single_precision,
    "empty rows": emptied,
    "even groups": even,
    "ungraded rows": ungraded,
    "pairs": paired,
}
