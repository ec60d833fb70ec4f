"""Replay: the fresh rows of the last steps, kept as tensors with the run, come again in the place of fresh ones.

`run.kept` holds them as `replay.STEP.COLUMN`: whatever the batch holds but what a scoring pass gives, the log-probs at
the sampling weights as `logp_behaviour`, and prompts as one row of ids with their lengths. Draws are counter-based, so
that `RoomForReplay` and `Replay` agree on them and a resumed run makes them again.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from rekindle.core.masked import masked_sum
from rekindle.core.random import uniforms
from rekindle.core.ratios import MAX_LOG_RATIO
from rekindle.core.types import Batch, Metrics
from rekindle.errors import InputError
from rekindle.tokens.rollouts import Example, PromptRows

PREFIX = "replay."
ROWS = tuple(f.name for f in fields(Batch) if f.name not in ("prompt", "key", "extra"))


@dataclass(frozen=True, kw_only=True)
class RoomForReplay:
    """The next prompts, fewer by round(share * prompts a step) where a `Replay` has as many groups to bring.

    Groups of one step are replayed together: where that step has fewer, so many more are rolled out. share: 0 to below
    1; at least one prompt of a step is fresh.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"the share of replayed groups is a number from 0 to below 1, not {self.share}")

    def wanted(self, run: Any) -> int:
        """How many prompts are rolled out in this step."""
        step, prompts = drawn_step(run), run.prompts_per_step
        there = 0 if step is None else len(run.kept[f"{PREFIX}{step}.group"].unique())
        return prompts - min(round(self.share * prompts), there, prompts - 1)

    def __call__(self, run: Any, count: int) -> Sequence[Example]:
        """`count` examples."""
        return run.next_examples(count)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Fills the batch up to the step's prompts with whole groups of one of the last `window` steps, and keeps its own.

    Which step and which of its fresh groups is drawn evenly, without replacement; a replayed row is not kept again. The
    batch gets `age` [B], in steps, 0 on fresh rows, and `drift` [B T], the log-ratio of the policy of now to the one
    that sampled the row; every other column is scored anew.
    """

    window: int

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"the window of a replay is a number of steps from 1 up, not {self.window}")

    def __call__(self, batch: Batch, run: Any) -> Batch:
        """Fresh rows, then replayed ones."""
        step, missing = drawn_step(run), run.prompts_per_step - len(batch.group.unique())
        remember(run.kept, run.step_index, batch, {need.name for need in run.record.needs()})
        fresh = batch.with_columns(age=torch.zeros_like(batch.uid), drift=torch.zeros_like(batch.logp_old))
        if step is not None and missing > 0:
            old = run.score(recalled(run.kept, step, missing, run.key))
            drift = (old.logp_old - old.column("logp_behaviour")).where(old.mask, 0.0)
            extra = {name: value for name, value in old.extra.items() if name != "logp_behaviour"}
            extra |= {"age": torch.full_like(old.uid, run.step_index - step), "drift": drift}
            fresh = joined(fresh, old, extra)
        forget(run.kept, run.step_index - self.window)
        return fresh

    def report(self, batch: Batch) -> Metrics:
        """`replay/rows`: their share; `replay/age`: in steps; `replay/ratio`: now over then, a mean over tokens."""
        old = batch.column("age") > 0
        live, rows = batch.live & old[:, None], float(old.sum().item())
        ratio = batch.column("drift").where(live, 0.0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        return {
            "replay/rows": (rows, float(len(batch))),
            "replay/age": (float(batch.column("age").sum().item()), rows),
            "replay/ratio": (masked_sum(ratio, live).item(), float(live.sum().item())),
        }


@dataclass(frozen=True)
class Reincarnate:
    """Once, in the first step that has this part: the policy becomes its own reference, and what is kept is dropped."""

    def __call__(self, batch: Batch, run: Any) -> Batch:
        """The batch, scored under its new reference where it has one."""
        if "reincarnated" in run.memory:
            return batch
        if "reference" in run.references:
            run.snapshot("reference")
        run.memory["reincarnated"] = run.step_index
        forget(run.kept, run.step_index)
        return run.score(batch)


def held(kept: Mapping[str, Tensor], before: int) -> list[int]:
    """The steps below `before` of which there are rows, oldest first."""
    steps = {int(name.split(".")[1]) for name in kept if name.startswith(PREFIX)}
    return sorted(step for step in steps if step < before)


def drawn_step(run: Any) -> int | None:
    """The step whose groups this step may replay, evenly drawn from those there are; None where there is none."""
    there = held(run.kept, run.step_index)
    # The keys are not the sampler's, whose draws chose the tokens, nor those of the split.
    return (
        there[int(uniforms(run.key - 2, torch.zeros(1, dtype=torch.int64), 1).item() * len(there))] if there else None
    )


def remember(kept: MutableMapping[str, Tensor], step: int, batch: Batch, scored: set[str]) -> None:
    """Keep the rows of `batch`; scored: the columns that a scoring pass gives and need not be kept."""
    rows: dict[str, Tensor] = {name: getattr(batch, name) for name in ROWS}
    for name, value in batch.extra.items():
        if not isinstance(value, Tensor):
            raise InputError(f"the column '{name}' holds prompts, which a replay cannot keep: take one of the two out")
        rows |= {} if name in scored else {name: value}
    if not isinstance(batch.prompt, PromptRows):
        raise InputError(f"a replay keeps prompts as token ids, not {type(batch.prompt).__name__}: take it out")
    ids = batch.prompt.ids
    rows["logp_behaviour"] = batch.logp_old
    rows["prompt"] = torch.tensor([token for row in ids for token in row], dtype=torch.int64)
    rows["prompt_length"] = torch.tensor([len(row) for row in ids], dtype=torch.int64)
    kept.update({f"{PREFIX}{step}.{name}": value.detach().clone() for name, value in rows.items()})


def forget(kept: MutableMapping[str, Tensor], until: int) -> None:
    """Drop the rows of step `until` and of all before it."""
    for step in held(kept, until + 1):
        for name in [name for name in kept if name.startswith(f"{PREFIX}{step}.")]:
            del kept[name]


def recalled(kept: Mapping[str, Tensor], step: int, groups: int, key: Int[Tensor, ""]) -> Batch:
    """`groups` whole groups of a step (all, where it has fewer), evenly drawn by `key`; `logp_behaviour` among them."""
    place = f"{PREFIX}{step}."
    rows = {name.removeprefix(place): value for name, value in kept.items() if name.startswith(place)}
    flat, lengths = rows.pop("prompt").tolist(), rows.pop("prompt_length").tolist()
    ends = torch.tensor(lengths).cumsum(0).tolist()
    prompt = PromptRows(tuple(tuple(flat[end - n : end]) for n, end in zip(lengths, ends, strict=True)))
    own = {name: rows.pop(name) for name in ROWS}
    ids = own["group"].unique()
    chosen = ids[uniforms(key - 3, ids, 1)[:, 0].argsort()[:groups]]
    return Batch(**own, prompt=prompt, key=key, extra=rows).take(torch.isin(own["group"], chosen).nonzero()[:, 0])


def joined(first: Batch, second: Batch, extra: Mapping[str, Any]) -> Batch:
    """The rows of two batches, padded to a common width; `extra` are the columns of the second one."""
    odd = sorted(first.extra.keys() ^ extra.keys())
    if odd:
        raise InputError(f"fresh and replayed rows do not have the same columns ('{odd[0]}'): take the replay out")
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in ROWS}
    assert isinstance(first.prompt, PromptRows) and isinstance(second.prompt, PromptRows)
    return Batch(
        **{name: stacked(a, b) for name, (a, b) in pairs.items()},
        prompt=PromptRows((*first.prompt.ids, *second.prompt.ids)),
        key=first.key,
        extra={name: stacked(first.column(name), value) for name, value in extra.items()},
    )


def stacked(first: Tensor, second: Tensor) -> Tensor:
    """The rows of two columns [B], [B T] or [B T K], the shorter ones padded with zeros."""
    if first.dim() == 1:
        return torch.cat([first, second])
    width = max(first.shape[1], second.shape[1])
    tail = (0, 0) * (first.dim() - 2)
    return torch.cat([torch.nn.functional.pad(x, (*tail, 0, width - x.shape[1])) for x in (first, second)])
