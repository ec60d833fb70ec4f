"""What a step's batch must be before anything is trained on it: finite where it counts, of one shape, no row twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rekindle.core.method import PolicyGradient
from rekindle.core.types import Batch, Now
from rekindle.errors import GuardStop
from rekindle.tokens.rollouts import PromptRows
from rekindle.train.drawn import drawn
from rekindle.train.quarantine import quarantine

if TYPE_CHECKING:
    from rekindle.train.run import Run

NAMED = 3
"""Rows, groups or tensors that a sentence names."""
WEIGHTS = "look at the weights (descent.lr too large?) and the number formats, in a new run (--model CHECKPOINT)"
REMEDIES: Mapping[str, str] = {
    "score": "look at what scores the responses, in a new run (--model CHECKPOINT)",
    "advantage": "look at the scores and the parts advantage and modulate, in a new run (--model CHECKPOINT)",
    "logp_sampled": "look at the sampler's number format and weights, in a new run (--model CHECKPOINT)",
    "logp_old": WEIGHTS,
    "logp_ref": "look at the reference's weights and number format, in a new run (--model CHECKPOINT)",
    "logp_teacher": "look at the teacher's weights and number format, in a new run (--model CHECKPOINT)",
}
"""What to do about a column that holds no finite number."""


@dataclass(frozen=True)
class Hole:
    """Numbers that are not finite: `count` of `of` live tokens (or rows) of the part `what`; value: the first one."""

    what: str
    count: int
    of: int
    unit: str
    rows: tuple[int, ...]
    value: float


def hole(what: str, values: Tensor, batch: Batch) -> Hole | None:
    """The hole in a column [B] or [B T *] of the batch; None where all of its live part is finite."""
    tokens = values.shape[:2] == batch.mask.shape
    live = batch.live if tokens else batch.live_rows
    flat = values.reshape(*live.shape, -1)
    bad = ~torch.isfinite(flat) & live[..., None]
    if not bad.any():
        return None
    at = bad.any(dim=-1)
    rows = (at.any(dim=1) if tokens else at).nonzero()[:, 0].tolist()
    return Hole(what, int(at.sum()), int(live.sum()), "tokens" if tokens else "rows", tuple(rows), flat[bad][0].item())


def column_hole(batch: Batch, names: Iterable[str]) -> Hole | None:
    """The first hole in the columns `names`, in their order; those that are not there, or hold no floats, have none."""
    columns = {**batch.extra, "score": batch.score}
    for name in names:
        value = columns.get(name)
        if isinstance(value, Tensor) and value.is_floating_point() and (found := hole(name, value, batch)) is not None:
            return found
    return None


def asked_columns(method: PolicyGradient) -> list[str]:
    """The columns of an update that must be finite at every live place, those first that others are made of."""
    return ["score", *(need.name for need in method.needs()), "logp_old", "advantage"]


def stopped(run: Run, batch: Batch, now: Now | None, index: int, found: Hole, remedy: str | None = None) -> GuardStop:
    """The stop before update `index` for a hole; the batch is kept in the run folder. All ranks call it."""
    where = run.ranks.exchange(quarantine(run.folder, run.step_index, index, batch, now))[0]
    said = f"{found.what} is {found.value:g} in {found.count} of {found.of} {found.unit}"
    return GuardStop(
        f"step {run.step_index}, update {index}: {said} ({named_rows(run, batch, found.rows)}); stopped before the "
        f"optimiser step, the batch is in {where}; {remedy or REMEDIES.get(found.what, WEIGHTS)}"
    )


def named_rows(run: Run, batch: Batch, rows: tuple[int, ...]) -> str:
    """'2 of 32 rows: uid 17 of prompt p-3, uid 18 of prompt p-3': the first few by name."""
    prompt = {
        uid: example.id
        for seen, _ in run.last_rollouts
        for uid, example in zip(seen.uid.tolist(), seen.example, strict=True)
    }
    uids = [int(batch.uid[row]) for row in rows[:NAMED]]
    names = [f"uid {uid}" + (f" of prompt {prompt[uid]}" if uid in prompt else "") for uid in uids]
    return f"{len(rows)} of {len(batch)} rows: {', '.join(names)}{', ...' if len(rows) > NAMED else ''}"


def refuse_holes(run: Run, part: Batch, method: PolicyGradient, index: int) -> None:
    """GuardStop naming the first column of a minibatch with a live number that is not finite, before any pass."""
    found = column_hole(part, asked_columns(method))
    if found is not None:
        raise stopped(run, part, None, index, found)


def refuse_malformed(run: Run, batch: Batch) -> None:
    """GuardStop for a step's batch that no method may learn from: empty, misshapen, a row twice, a group of two.

    Also where a score, or a column that the method asked for, is no finite number, or the sampler's log-prob of a token
    that it drew.
    """
    for said in (*misshapen(batch), *twins(run, batch)):
        raise GuardStop(
            f"step {run.step_index}: {said}; look at the method's collect and source, in a new run (--model CHECKPOINT)"
        )
    refuse_holes(run, batch, run.record, 0)
    uids = [rollouts.uid[drawn(rollouts)] for rollouts, _ in run.last_rollouts if rollouts.given is None]
    if not uids or "logp_sampled" not in batch.extra:
        return
    rows = torch.isin(batch.uid, torch.cat(uids)).nonzero()[:, 0]
    found = column_hole(batch.take(rows), ["logp_sampled"])
    if found is not None:
        raise stopped(run, batch.take(rows), None, 0, found)


def misshapen(batch: Batch) -> Iterator[str]:
    """What is wrong with the shapes of a batch: no rows, or columns that do not stand beside its rows and tokens."""
    if not len(batch):
        yield "the batch has no rows: nothing was sampled"
    for name, value in batch.extra.items():
        token = name in ("logp_old", "logp_ref", "logp_sampled")
        if token and isinstance(value, Tensor) and value.shape != batch.mask.shape:
            yield f"column '{name}' is of shape {tuple(value.shape)}, not {tuple(batch.mask.shape)}"
        elif len(value) != len(batch):
            yield f"column '{name}' has {len(value)} rows, the batch {len(batch)}"


def twins(run: Run, batch: Batch) -> Iterator[str]:
    """Rows that cannot be what their ids say: a uid that stands twice, a group of more than one prompt."""
    uid, group = batch.uid.tolist(), batch.group.tolist()
    twice = [name for name, count in Counter(uid).items() if count > 1]
    if twice:
        yield f"uid {', '.join(map(str, twice[:NAMED]))} stands more than once in the batch ({len(twice)} such uids)"
    if not isinstance(batch.prompt, PromptRows):
        return
    prompts: dict[int, set[tuple[int, ...]]] = {}
    for name, ids in zip(group, batch.prompt.ids, strict=True):
        prompts.setdefault(name, set()).add(tuple(ids))
    mixed = [name for name, seen in prompts.items() if len(seen) > 1]
    if mixed:
        rows = tuple(row for row, name in enumerate(group) if name == mixed[0])
        what = f"group {mixed[0]} holds rows of {len(prompts[mixed[0]])} different prompts"
        yield f"{what} ({named_rows(run, batch, rows)}; {len(mixed)} such groups): a group id was used twice"
