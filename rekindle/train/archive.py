"""The rollouts of a run, a parquet file a step: what was sampled, and what the label made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rewards.base import tidy
from rekindle.tokens.rollouts import Rollouts

LOGGED = "reward/"  # columns of the user's own: of any kind, and maybe not in every round of a step


def rows_of(rollouts: Rollouts, verdicts: Verdicts) -> dict[str, list[Any]]:
    """Column name -> one value a sample. `label` is the vote of the sample's group, None without a vote.

    `reward/NAME`: what a reward function gave, `reward/NAME/KEY` what it logged.
    """
    groups = rollouts.group.tolist()
    mask = rollouts.mask
    logp = rollouts.logp_sampled if rollouts.logp is None else rollouts.logp
    columns = {
        "id": [e.id for e in rollouts.example],
        "prompt": [e.prompt for e in rollouts.example],
        "response": list(rollouts.text),
        "answer": list(verdicts.answer),
        "label": [verdicts.vote.get(g) for g in groups],
        "success": verdicts.success.tolist(),
        "graded": verdicts.graded.tolist(),
        "score": verdicts.score.tolist(),
        "finish": list(rollouts.finish),
        "group": groups,
        "uid": rollouts.uid.tolist(),
        "tokens": mask.sum(dim=1).tolist(),
        "logp": logp.where(mask, 0.0).sum(dim=1).tolist(),
    }
    if rollouts.entropy is not None:
        columns["entropy"] = (rollouts.entropy.where(mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).tolist()
    return columns | {name: list(values) for name, values in verdicts.extra.items()}


def write_rollouts(folder: Path, step: int, seen: list[tuple[Rollouts, Verdicts]]) -> Path:
    """Write `folder/step-NNNNNN.parquet`; the file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, list[Any]] = {}
    parts = [rows_of(rollouts, verdicts) for rollouts, verdicts in seen]
    for name in dict.fromkeys(name for part in parts for name in part):
        found = [value for part in parts for value in part.get(name, [None] * len(part["id"]))]
        columns[name] = tidy(found) if name.startswith(LOGGED) else found
    place = folder / f"step-{step:06d}.parquet"
    partial = place.with_name(f".{place.name}.partial")
    text = ("id", "prompt", "response", "answer", "label", "finish")
    table = pa.table({n: pa.array(v, pa.string()) if n in text else pa.array(v) for n, v in columns.items()})
    pq.write_table(table, partial)
    partial.rename(place)
    return place
