"""The rows of a step of TRL's, as the columns and metrics of docs/run_folder.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Bool
from torch import Tensor

from rekindle.core.objectives import ratio_metrics
from rekindle.core.terms import kl_estimate
from rekindle.core.types import Batch, Now, concat_sequences, mean_metrics
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.train.archive import rows_of
from rekindle.train.archive_tokens import ROUNDS, lengths, round_facts, token_columns
from rekindle.train.credits import BOUNDS
from rekindle.train.meter import group_metrics


@dataclass(frozen=True)
class Row:
    """A response: what is known when it is sampled and rewarded."""

    id: str
    prompt: str
    response: str
    ids: list[int]
    prompt_ids: list[int]
    score: float
    graded: bool
    success: bool
    finish: str
    group: int
    rewards: dict[str, float]


@dataclass(frozen=True, eq=False)
class Piece:
    """A micro-batch of an update: what its forward pass said. columns: [B T], or [B] (an advantage)."""

    uid: list[int]
    mask: Bool[Tensor, "B T"]
    columns: dict[str, Tensor]
    loss: float


def prompt_name(prompt: str) -> str:
    """The id of a prompt that the data gives none: twelve hexadecimal digits of its text."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _joined(pieces: Sequence[Piece], name: str) -> Tensor | None:
    parts = [piece.columns.get(name) for piece in pieces]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return None
    wide = [
        part if part.dim() > 1 else part[:, None].expand(piece.mask.shape)
        for part, piece in zip(found, pieces, strict=True)
    ]
    return concat_sequences(wide)


def rollouts_of(rows: Mapping[int, Row], pieces: Sequence[Piece]) -> tuple[Rollouts, Verdicts]:
    """The step's rows in the order of `pieces`; log-probs and entropies are those of the training forward pass.

    `logp_sampled` is the sampler's where every piece has it, else equal to `logp`.
    """
    uids = [uid for piece in pieces for uid in piece.uid]
    own = [rows[uid] for uid in uids]
    mask = concat_sequences([piece.mask for piece in pieces])
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    for i, row in enumerate(own):
        ids[i, : len(row.ids)] = torch.tensor(row.ids, dtype=torch.int64)
    logp, entropy, sampled = (_joined(pieces, name) for name in ("logp", "entropy", "logp_sampled"))
    assert logp is not None and entropy is not None  # a piece is not made without
    logp, entropy = logp.where(mask, 0.0), entropy.where(mask, 0.0)
    rollouts = Rollouts(
        example=[Example(row.id, row.prompt) for row in own],
        prompt=PromptRows(tuple(tuple(row.prompt_ids) for row in own)),
        ids=ids,
        mask=mask,
        logp=logp,
        logp_sampled=logp if sampled is None else sampled.where(mask, 0.0),
        entropy=entropy,
        text=[row.response for row in own],
        finish=[row.finish for row in own],
        group=torch.tensor([row.group for row in own]),
        uid=torch.tensor(uids),
    )
    verdicts = Verdicts(
        answer=[None] * len(own),
        success=torch.tensor([row.success for row in own]),
        graded=torch.tensor([row.graded for row in own]),
        score=torch.tensor([row.score for row in own], dtype=torch.float64),
        extra={f"reward/{name}": [row.rewards[name] for row in own] for name in own[0].rewards},
    )
    return rollouts, verdicts


def table_of(
    rows: Mapping[int, Row],
    pieces: Sequence[Piece],
    texts: Callable[[Sequence[int]], list[str]],
    bounds: tuple[float, float] | None = None,
) -> pa.Table:
    """The step's table: our columns, and `advantage` (its mean over the row), `token_ratio`, `token_text`.

    `token_advantage` is there only where a row has several. texts: the text of each of some tokens. bounds: of the
    clipped ratio.
    """
    rollouts, verdicts = rollouts_of(rows, pieces)
    columns: dict[str, Any] = rows_of(rollouts, verdicts)
    columns |= {"round": [0] * len(rollouts), "trained": rollouts.mask.any(dim=1).tolist()}
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    size, mask = lengths(rollouts).tolist(), rollouts.mask
    advantage = _joined(pieces, "advantage")
    ratio = _ratio(pieces, rollouts)
    more: dict[str, Any] = dict(token_columns(rollouts))
    if advantage is not None:
        count = mask.sum(dim=1).clamp(min=1)
        more["advantage"] = pa.array((advantage.where(mask, 0.0).sum(dim=1) / count).tolist())
        if not _constant(advantage, mask):
            more["token_advantage"] = pa.array([row[:n] for row, n in zip(advantage.tolist(), size, strict=True)])
    more["token_ratio"] = pa.array(
        [row[:n] for row, n in zip(ratio.tolist(), size, strict=True)], pa.list_(pa.float32())
    )
    more["token_text"] = pa.array(_spelled(rollouts, size, texts), pa.list_(pa.string()))
    for name, values in more.items():
        table = table.append_column(name, values)
    facts = {ROUNDS: json.dumps([round_facts(rollouts)]).encode()}
    clip = {} if bounds is None else {BOUNDS: "{} {}".format(*bounds).encode()}
    return table.replace_schema_metadata({**facts, **clip})


def _spelled(rollouts: Rollouts, size: Sequence[int], texts: Callable[[Sequence[int]], list[str]]) -> list[list[str]]:
    rows = [row[:n] for row, n in zip(rollouts.ids.tolist(), size, strict=True)]
    known = sorted({token for row in rows for token in row})
    words = dict(zip(known, texts(known), strict=True))
    return [[words[token] for token in row] for row in rows]


def metrics_of(
    rows: Mapping[int, Row], pieces: Sequence[Piece], bounds: tuple[float, float] | None
) -> dict[str, float]:
    """What the step shows, under our names; `clip_low` and `clip_high` only where the loss clips at `bounds`."""
    rollouts, verdicts = rollouts_of(rows, pieces)
    mask, graded, count = rollouts.mask, verdicts.graded, len(rollouts)
    live = float(mask.sum())
    found: dict[str, Any] = {
        "entropy": (float(rollouts.entropy[mask].sum()) if rollouts.entropy is not None else 0.0, live),
        "length": (live, count),
        "truncated": (sum(finish == "length" for finish in rollouts.finish), count),
        "success": (float(verdicts.success[graded].sum()), float(graded.sum())),
        "score": (float(verdicts.score[graded].sum()), float(graded.sum())),
        "graded": (float(graded.sum()), count),
        "loss": (sum(piece.loss for piece in pieces), 1.0),
        **group_metrics(rollouts, verdicts),
    }
    reference, advantage = _joined(pieces, "logp_ref"), _joined(pieces, "advantage")
    if reference is not None and rollouts.logp is not None:
        estimate = kl_estimate((reference - rollouts.logp).where(mask, 0.0), "k3")
        found["kl_ref"] = (float(estimate.sum()), live)
    if bounds is not None and advantage is not None:
        found |= _clipped(rollouts, pieces, advantage, bounds)
    return mean_metrics(found)


def _clipped(rollouts: Rollouts, pieces: Sequence[Piece], advantage: Tensor, bounds: tuple[float, float]) -> Any:
    logp, rows = rollouts.logp, len(rollouts)
    assert logp is not None and rollouts.entropy is not None
    old = _joined(pieces, "logp_old")
    batch = Batch(
        action=rollouts.ids,
        mask=rollouts.mask,
        uid=rollouts.uid,
        group=rollouts.group,
        success=torch.ones(rows, dtype=torch.bool),
        graded=torch.ones(rows, dtype=torch.bool),
        score=torch.zeros(rows),
        prompt=rollouts.prompt,
        key=torch.tensor(0),
        extra={"logp_old": logp if old is None else old, "advantage": advantage},
    )
    ratio = _ratio(pieces, rollouts)
    return ratio_metrics(Now(logp=logp, entropy=rollouts.entropy), batch, ratio, bounds[0], bounds[1])


def _ratio(pieces: Sequence[Piece], rollouts: Rollouts) -> Tensor:
    """Current over old policy [B T]; 1 where TRL scored no old policy, for then the two are one."""
    old, logp = _joined(pieces, "logp_old"), rollouts.logp
    if old is None or logp is None:
        return torch.ones(rollouts.mask.shape)
    return (logp - old).exp().where(rollouts.mask, 1.0)


def _constant(values: Tensor, mask: Tensor) -> bool:
    high, low = values.masked_fill(~mask, -torch.inf).amax(dim=1), values.masked_fill(~mask, torch.inf).amin(dim=1)
    return bool((high <= low).all())
