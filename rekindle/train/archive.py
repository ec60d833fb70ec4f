"""The rollouts of a run, a parquet file a step: what was sampled, token by token, and what the label made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from rekindle.errors import InputError
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rewards.base import tidy
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.train.archive_tokens import FLOATS, ROUNDS, round_facts, tables, token_columns
from rekindle.train.durable import make, write_whole

if TYPE_CHECKING:
    from rekindle.train.run import Run

LOGGED = "reward/"  # columns of the user's own: of any kind, and maybe not in every round of a step
TEXT = ("id", "prompt", "response", "answer", "label", "finish")


def keeps_rollouts(run: Run, step: int) -> bool:
    """Whether this rank writes down what `step` sampled. After a stop inside the step that is done already."""
    every = run.resolved.config.checkpoint.rollouts
    return bool(every) and step % every == 0 and not run.ranks.index


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


def write_rollouts(
    folder: Path, step: int, seen: list[tuple[Rollouts, Verdicts]], trained: Tensor | None = None, tokens: bool = True
) -> Path:
    """Write `folder/step-NNNNNN.parquet`; the file appears whole or not at all.

    trained: the uids of the rows that the step updated on. tokens: with the columns of `archive_tokens`.
    """
    make(folder)
    columns: dict[str, list[Any]] = {}
    parts = [rows_of(rollouts, verdicts) for rollouts, verdicts in seen]
    for i, (rollouts, _) in enumerate(seen):
        parts[i]["round"] = [i] * len(rollouts)
        parts[i]["trained"] = [None] * len(rollouts) if trained is None else torch.isin(rollouts.uid, trained).tolist()
    for name in dict.fromkeys(name for part in parts for name in part):
        found = [value for part in parts for value in part.get(name, [None] * len(part["id"]))]
        columns[name] = tidy(found) if name.startswith(LOGGED) else found
    place = folder / f"step-{step:06d}.parquet"
    table = pa.table({n: pa.array(v, pa.string()) if n in TEXT else pa.array(v) for n, v in columns.items()})
    if tokens:
        table = _with_tokens(table, [rollouts for rollouts, _ in seen])
    there = [name for name in FLOATS if name in table.column_names]
    packed: dict[str, Any] = {"use_dictionary": [name for name in table.column_names if name not in FLOATS]}
    packed |= {"column_encoding": {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in there}} if there else {}
    write_whole(place, lambda partial: pq.write_table(table, partial, compression="zstd", **packed))
    return place


def _with_tokens(table: pa.Table, rounds: Sequence[Rollouts]) -> pa.Table:
    parts = [token_columns(rollouts) for rollouts in rounds]
    kinds = {name: values.type for part in parts for name, values in part.items()}
    for name, kind in kinds.items():
        chunks = [part.get(name, pa.nulls(len(r), kind)) for part, r in zip(parts, rounds, strict=True)]
        table = table.append_column(name, pa.chunked_array(chunks, kind))
    facts = json.dumps([round_facts(rollouts) for rollouts in rounds])
    return table.replace_schema_metadata({ROUNDS: facts.encode()})


def read_rollouts(path: Path, examples: Mapping[str, Example]) -> list[tuple[Rollouts, Verdicts]]:
    """The rounds of a step as the run observed them, bit for bit; columns of a sampling rule are not kept.

    examples: by id, of the run's data. Verdicts have no `metrics` and no `reward`: only what the file holds. InputError
    where the file is gone or damaged, was written without tokens, or has a prompt that `examples` lacks.
    """
    table = read_table(path)
    facts = facts_of(table)
    if facts is None:
        raise InputError(f"{path} holds no tokens: the run left them out (checkpoint.tokens) or is of an older version")
    columns: dict[str, list[Any]] = table.to_pydict()
    lacking = [name for name in columns["id"] if name not in examples]
    if lacking:
        raise InputError(f"{path} has the prompt '{lacking[0]}', which the data of the run lacks: restore the data")
    found = []
    for number, fact in enumerate(facts):
        rows = [i for i, value in enumerate(columns["round"]) if value == number]
        own = {name: [values[i] for i in rows] for name, values in columns.items()}
        found.append((_rollouts(own, fact, examples), _verdicts(own)))
    return found


def read_table(path: Path) -> pa.Table:
    """The file as a table; InputError where there is none or it is damaged."""
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"cannot read the rollouts {path} ({error}): restore the file, or name another step"
        ) from error


def facts_of(table: pa.Table) -> list[dict[str, Any]] | None:
    """What `round_facts` told of each round; None in a file without tokens."""
    told = (table.schema.metadata or {}).get(ROUNDS)
    return None if told is None else json.loads(told)


def _rollouts(own: Mapping[str, list[Any]], facts: Mapping[str, Any], examples: Mapping[str, Example]) -> Rollouts:
    found: dict[str, Any] = tables(own, facts)
    given = own.get("given", [None])
    return Rollouts(
        example=[examples[name] for name in own["id"]],
        prompt=PromptRows(tuple(tuple(row) for row in own["prompt_ids"])),
        text=own["response"],
        finish=own["finish"],
        group=torch.tensor(own["group"]),
        uid=torch.tensor(own["uid"]),
        given=None if given[0] is None else torch.tensor(given, dtype=torch.float64),
        **found,
    )


def _verdicts(own: Mapping[str, list[Any]]) -> Verdicts:
    return Verdicts(
        answer=own["answer"],
        success=torch.tensor(own["success"]),
        graded=torch.tensor(own["graded"]),
        score=torch.tensor(own["score"], dtype=torch.float64),
        vote=dict(zip(own["group"], own["label"], strict=True)),
        extra={name: values for name, values in own.items() if name.startswith(LOGGED)},
    )
