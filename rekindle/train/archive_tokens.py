"""The tokens of archived rollouts: list columns a row, from which `Rollouts` are built again bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rekindle.tokens.rollouts import Rollouts

FLOATS = ("token_logp", "token_logp_sampled", "token_entropy")
"""Columns of numbers, in the width of the run (bfloat16 as float32, which holds it)."""
ROUNDS = b"rekindle.rounds"
"""Key of the file's metadata: JSON, one object a round (`round_facts`)."""


def lengths(rollouts: Rollouts) -> Int[Tensor, " B"]:
    """Positions up to the last that the policy chose, or that a sampling rule forced behind it."""
    place = torch.arange(1, rollouts.mask.shape[1] + 1)
    return (
        torch.where(rollouts.mask | (rollouts.ids != 0), place, 0).amax(dim=1)
        if len(place)
        else torch.zeros(len(rollouts)).long()
    )


def token_columns(rollouts: Rollouts) -> dict[str, pa.Array]:
    """Column -> one list a row: `token_ids`, the prompt's `prompt_ids`, and the numbers that the sampler knows.

    `token_logp_sampled` is left out where it equals `token_logp`, and `token_mask` where it is True to a row's end.
    """
    size = lengths(rollouts)
    inside = torch.arange(rollouts.ids.shape[1]) < size[:, None]
    columns = {"token_ids": _lists(rollouts.ids.int(), inside), "prompt_ids": _prompts(rollouts)}
    for name, values in zip(FLOATS, _numbers(rollouts), strict=True):
        if values is not None:
            columns[name] = _lists(_wide(values), inside)
    if not rollouts.mask.equal(inside):
        columns["token_mask"] = _lists(rollouts.mask, inside)
    if rollouts.given is not None:
        columns["given"] = pa.array(rollouts.given.double().numpy())
    return columns


def round_facts(rollouts: Rollouts) -> dict[str, Any]:
    """What lists do not hold: the width of the tables, the number formats, and columns of a sampling rule (unkept)."""
    kinds = {name: _kind(values) for name, values in zip(FLOATS, _numbers(rollouts), strict=True)}
    return {"width": rollouts.ids.shape[1], "dtypes": kinds, "unkept": sorted(rollouts.extra)}


def tables(columns: Mapping[str, Sequence[Any]], facts: Mapping[str, Any]) -> dict[str, Tensor | None]:
    """The tensors of `Rollouts` from the lists of one round and its facts."""
    width, rows = int(facts["width"]), columns["token_ids"]
    size = torch.tensor([len(row) for row in rows])
    inside = torch.arange(width) < size[:, None]
    numbers = {
        name: None if kind is None else _table(columns[name], inside, vars(torch)[kind])
        for name, kind in facts["dtypes"].items()
    }
    logp, sampled = numbers["token_logp"], numbers["token_logp_sampled"]
    mask = columns.get("token_mask")
    return {
        "ids": _table(rows, inside, torch.int64),
        "mask": inside if mask is None or mask[0] is None else _table(mask, inside, torch.bool),
        "logp": logp,
        "logp_sampled": logp if sampled is None else sampled,
        "entropy": numbers["token_entropy"],
    }


def _numbers(rollouts: Rollouts) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    same = rollouts.logp is not None and rollouts.logp.equal(rollouts.logp_sampled)
    return rollouts.logp, None if same else rollouts.logp_sampled, rollouts.entropy


def _kind(values: Tensor | None) -> str | None:
    return None if values is None else str(values.dtype).removeprefix("torch.")


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _lists(values: Tensor, inside: Bool[Tensor, "B T"]) -> pa.Array:
    ends = inside.sum(dim=1).cumsum(0)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), ends]).int().numpy()
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[inside].numpy()))


def _prompts(rollouts: Rollouts) -> pa.Array:
    rows = rollouts.prompt.ids
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array([i for row in rows for i in row], pa.int32()))


def _table(rows: Sequence[Sequence[Any]], inside: Bool[Tensor, "B T"], dtype: torch.dtype) -> Tensor:
    table = torch.zeros(inside.shape, dtype=dtype)
    # Through float64, for every number of a narrower format is one of its own.
    wide = torch.float64 if dtype.is_floating_point else dtype
    table[inside] = torch.tensor([value for row in rows for value in row], dtype=wide).to(dtype)
    return table
