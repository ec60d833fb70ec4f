"""Batches for tests: small, ragged, in shuffled row order, and alive (a dead batch proves nothing)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rekindle.core.advantages import GroupNormalized
from rekindle.core.segments import segments
from rekindle.core.types import Batch, Now

DELIMITER = 9


@dataclass(frozen=True)
class PlainRows:
    """The plainest `Rows`: one integer a sequence."""

    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Tensor) -> PlainRows:
        """The entries `rows`, in that order."""
        return PlainRows(tuple(self.ids[i] for i in rows.tolist()))


def make_batch(
    B: int = 12,
    T: int = 9,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    ungraded: bool = False,
    shaped: bool = False,
) -> Batch:
    """A live batch: groups of unequal size in shuffled order, ragged rows with gaps, mixed success in each group of 2+.

    `ungraded` marks one row as not graded; `shaped` adds noise to the 0/1 score. Columns: logp_old, logp_ref,
    entropy_old, segment (delimiter token 9) and advantage. Actions are 4..9 on the mask and 0 off it; T is at least 4.
    """
    rng = torch.Generator().manual_seed(seed)
    group, success = _groups(B, rng)
    mask = _mask(B, T, rng)
    action = torch.randint(4, 10, (B, T), generator=rng)
    action[0, 0], action[0, 2], action[0, -1] = 4, DELIMITER, 4
    action = action.where(mask, 0)
    graded = torch.ones(B, dtype=torch.bool)
    if ungraded:
        graded[group.bincount()[group].argmax()] = False
    score = success.to(dtype) + (0.25 * torch.rand(B, generator=rng, dtype=dtype) if shaped else 0.0)
    batch = Batch(
        action=action,
        mask=mask,
        uid=torch.randperm(10 * B, generator=rng)[:B],
        group=group * 7 + 3,
        success=success & graded,
        graded=graded,
        score=score,
        prompt=PlainRows(tuple(group.tolist())),
        key=torch.tensor(seed + 1),
        extra=_columns(action, mask, dtype, rng),
    )
    return batch.with_columns(advantage=GroupNormalized()(batch))


def hand_batch(
    score: list[float],
    lengths: list[int] | None = None,
    group: list[int] | None = None,
    graded: list[bool] | None = None,
    dtype: torch.dtype = torch.float64,
    **columns: Tensor,
) -> Batch:
    """A batch for numbers worked on paper: one group, one token a row unless said; a score above 0.5 is a success."""
    B = len(score)
    sizes = torch.tensor(lengths or [1] * B)
    mask = torch.arange(int(sizes.max())) < sizes[:, None]
    ok = torch.tensor(graded) if graded else torch.ones(B, dtype=torch.bool)
    return Batch(
        action=torch.ones_like(mask, dtype=torch.int64),
        mask=mask,
        uid=torch.arange(B),
        group=torch.tensor(group or [0] * B),
        success=(torch.tensor(score) > 0.5) & ok,
        graded=ok,
        score=torch.tensor(score, dtype=dtype),
        prompt=PlainRows(tuple(range(B))),
        key=torch.tensor(0),
        extra=columns,
    )


def make_now(batch: Batch, seed: int = 1, requires_grad: bool = True, spread: float = 0.3) -> Now:
    """What a policy might say now: logp_old moved by `spread` standard deviations; leaves, 0 off the mask."""
    rng = torch.Generator().manual_seed(seed)
    old = batch.logp_old
    logp = (old + spread * torch.randn(old.shape, generator=rng, dtype=old.dtype)).clamp(max=-1e-3)
    entropy = 2 * torch.rand(old.shape, generator=rng, dtype=old.dtype) + 0.05
    return Now(
        logp=logp.where(batch.mask, 0.0).requires_grad_(requires_grad),
        entropy=entropy.where(batch.mask, 0.0).requires_grad_(requires_grad),
    )


def poison(x: Tensor, keep: Tensor, value: float = float("nan")) -> Tensor:
    """`x` [B T] as a fresh leaf with `value` at every position where `keep` is False."""
    return x.detach().where(keep, value).requires_grad_(x.requires_grad)


def poisoned(batch: Batch, now: Now, value: float = float("nan")) -> tuple[Batch, Now]:
    """The same batch and now with `value` off the live positions of every floating-point [B T] tensor."""
    live = batch.live
    floats = {n: v for n, v in batch.extra.items() if isinstance(v, Tensor) and v.is_floating_point()}
    floats = {n: v for n, v in floats.items() if v.shape == live.shape}
    dirty = batch.with_columns(**{n: poison(v, live, value) for n, v in floats.items()})
    score = batch.score.where(batch.graded, value)
    extra = {n: poison(v, live, value) for n, v in now.extra.items()}
    said = Now(logp=poison(now.logp, live, value), entropy=poison(now.entropy, live, value), extra=extra)
    return replace(dirty, score=score), said


def pad(batch: Batch, now: Now, extra: int = 3) -> tuple[Batch, Now]:
    """The same batch and now with `extra` masked positions at the right."""

    def wide(x: Tensor) -> Tensor:
        edges = (0, 0) * (x.dim() - 2)
        return torch.nn.functional.pad(x, (*edges, 0, extra), value=-1 if x is batch.extra.get("segment") else 0)

    there = {n: v for n, v in batch.extra.items() if isinstance(v, Tensor) and v.shape[:2] == batch.mask.shape}
    columns = {n: wide(v) for n, v in there.items()}
    padded = replace(batch, action=wide(batch.action), mask=wide(batch.mask), extra={**batch.extra, **columns})
    leaves = [wide(x.detach()).requires_grad_(x.requires_grad) for x in (now.logp, now.entropy)]
    return padded, Now(logp=leaves[0], entropy=leaves[1])


def assert_alive(batch: Batch) -> None:
    """Fails unless the batch can tell right from wrong: mixed groups, both signs of advantage, ragged rows, gaps."""
    sizes = batch.group.unique(return_counts=True)[1]
    assert len(sizes) > 1 and len(sizes.unique()) > 1, "groups of unequal size"
    assert (batch.group[1:] != batch.group[:-1]).sum() > len(sizes) - 1, "rows of a group are not all adjacent"
    assert batch.success[batch.graded].any() and not batch.success[batch.graded].all(), "mixed success"
    assert (batch.advantage > 0).any() and (batch.advantage < 0).any(), "advantages of both signs"
    lengths = batch.mask.sum(dim=1)
    assert len(lengths.unique()) > 1, "ragged rows"
    inner = batch.mask.flip(1).cumsum(1).flip(1) > 0
    assert (inner & ~batch.mask).any(), "a gap in some mask"
    assert batch.column("segment").amax() > 0, "more than one segment in some row"


def _groups(B: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    sizes: list[int] = []
    while sum(sizes) < B:
        sizes.append(min(2 + (len(sizes) * 2 + 1) % 5, B - sum(sizes)))
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    turn = torch.cat([torch.arange(n) for n in sizes])
    success = (turn % 2 == 0) & ~((turn == 2) & (group % 2 == 0))
    order = torch.randperm(B, generator=rng)
    return group[order], success[order]


def _mask(B: int, T: int, rng: torch.Generator) -> Tensor:
    length = torch.randint(max(1, T // 3), T + 1, (B,), generator=rng)
    length[0], length[-1] = T, max(1, T // 3)
    mask = torch.arange(T) < length[:, None]
    gap = torch.rand(B, T, generator=rng) < 0.15
    gap[:, 0] = False
    gap[0, 1], gap[0, 2], gap[0, -1] = True, False, False
    return mask & ~gap


def _columns(action: Tensor, mask: Tensor, dtype: torch.dtype, rng: torch.Generator) -> dict[str, Tensor]:
    shape = tuple(mask.shape)
    logp_old = -3 * torch.rand(shape, generator=rng, dtype=dtype) - 0.5
    logp_ref = (logp_old + 0.3 * torch.randn(shape, generator=rng, dtype=dtype)).clamp(max=-0.01)
    entropy_old = 2 * torch.rand(shape, generator=rng, dtype=dtype) + 0.05
    return {
        "logp_old": logp_old.where(mask, 0.0),
        "logp_ref": logp_ref.where(mask, 0.0),
        "entropy_old": entropy_old.where(mask, 0.0),
        "segment": segments(mask, action == DELIMITER),
    }
