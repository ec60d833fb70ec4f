"""Rollouts: the Python side of a batch (texts, answers, hidden truths, finish reasons), row by row.

A row is one sampled response. Rows of one prompt share `group`; `uid` is unique within a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rekindle.core.types import concat_sequences
from rekindle.errors import InputError


@dataclass(frozen=True)
class Example:
    """One prompt of a task. `answer` is the reference, None where there is no label; `meta` holds all other columns."""

    id: str
    prompt: str
    answer: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptRows:
    """Prompt token ids, one tuple a sequence (the `Rows` of the language wing)."""

    ids: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Int[Tensor, " N"]) -> PromptRows:
        """The prompts `rows`, in that order."""
        return PromptRows(tuple(self.ids[i] for i in rows.tolist()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollouts:
    """Sampled responses. Tensors are [B T], right-padded; lists have B entries.

    ids: response tokens, the end token included. logp: log-prob of each under the *full* tempered distribution.
    logp_sampled: under the distribution that was sampled from (differs from `logp` with top-p or top-k).
    entropy: nats, of the full tempered distribution. It and `logp` are None where the sampler does not know them.
    finish: "eos", "stop" (a stop string), "length" (truncated) or "demonstration" (nobody sampled it).
    given: the score that the data brings with each row, where nobody sampled any of them.
    extra: further columns [B T *] of a sampling rule, by name; they become columns of the batch.
    """

    example: Sequence[Example]
    prompt: PromptRows
    ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    logp: Float[Tensor, "B T"] | None
    logp_sampled: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"] | None
    text: Sequence[str]
    finish: Sequence[str]
    group: Int[Tensor, " B"]
    uid: Int[Tensor, " B"]
    given: Float[Tensor, " B"] | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.ids.shape[0]

    def take(self, rows: Int[Tensor, " N"]) -> Rollouts:
        """The rows `rows`, in that order."""
        index = rows.tolist()
        return replace(
            self,
            example=[self.example[i] for i in index],
            prompt=self.prompt.take(rows),
            text=[self.text[i] for i in index],
            finish=[self.finish[i] for i in index],
            ids=self.ids[rows],
            mask=self.mask[rows],
            logp=None if self.logp is None else self.logp[rows],
            logp_sampled=self.logp_sampled[rows],
            entropy=None if self.entropy is None else self.entropy[rows],
            group=self.group[rows],
            uid=self.uid[rows],
            given=None if self.given is None else self.given[rows],
            extra={name: values[rows] for name, values in self.extra.items()},
        )

    @staticmethod
    def concat(parts: Sequence[Rollouts]) -> Rollouts:
        """All rows of `parts`, in order, padded to a common width."""
        return Rollouts(
            example=[e for p in parts for e in p.example],
            prompt=PromptRows(tuple(i for p in parts for i in p.prompt.ids)),
            text=[t for p in parts for t in p.text],
            finish=[f for p in parts for f in p.finish],
            ids=concat_sequences([p.ids for p in parts]),
            mask=concat_sequences([p.mask for p in parts]),
            logp=_joined([p.logp for p in parts]),
            logp_sampled=concat_sequences([p.logp_sampled for p in parts]),
            entropy=_joined([p.entropy for p in parts]),
            group=torch.cat([p.group for p in parts]),
            uid=torch.cat([p.uid for p in parts]),
            given=_scores([p.given for p in parts]),
            extra=_columns([p.extra for p in parts]),
        )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """One table, None where a part has none."""
    known = [part for part in parts if part is not None]
    return concat_sequences(known) if len(known) == len(parts) else None


def _scores(parts: Sequence[Tensor | None]) -> Tensor | None:
    """One column, None where a part has none."""
    known = [part for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) else None


def _columns(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Each column over all parts, padded to a common width; all parts have the same ones."""
    if any(part.keys() != parts[0].keys() for part in parts):
        raise InputError(
            "some rows of a batch were drawn by a sampling rule and others were not, so that columns are missing: "
            "drop the part of the method that brings other rows"
        )
    return {name: concat_sequences([part[name] for part in parts]) for name in parts[0]}
