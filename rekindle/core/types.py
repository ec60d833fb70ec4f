"""The two things every part of a method sees: a `Batch` (before the gradient) and a `Now` (with it).

Letters: P prompts, G group size, B sequences, T actions per sequence, V vocabulary, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from rekindle.core.random import uniforms

Metrics = dict[str, tuple[float | int, float | int]]
"""Name -> (sum, count). Sums and counts are added over minibatches; the mean is taken once, at the end."""


@runtime_checkable
class Rows(Protocol):
    """What a sequence is conditioned on: opaque to core, one entry a sequence."""

    def __len__(self) -> int: ...

    def take(self, rows: Int[Tensor, " N"]) -> Rows:
        """The entries `rows`, in that order."""
        ...


class MissingColumn(LookupError):
    """A part read a column that nobody asked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """All that is known before the gradient step. Carries no gradient.

    `key` holds (seed, step, update) packed by `rekindle.core.random.pack_key`: the source of counter-based uniforms.
    All tensors live on one device, in the language wing the CPU: only a model's computations are on its own device.
    `extra` holds the columns that parts asked for: `logp_old`, `advantage`, `entropy_old`, `logp_ref`, `segment`, ...
    """

    action: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    uid: Int[Tensor, " B"]
    group: Int[Tensor, " B"]
    success: Bool[Tensor, " B"]
    graded: Bool[Tensor, " B"]
    score: Float[Tensor, " B"]
    prompt: Rows
    key: Int[Tensor, ""]
    extra: Mapping[str, Tensor | Rows] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.action.shape[0]

    @property
    def live(self) -> Bool[Tensor, "B T"]:
        """Positions that count: chosen by the policy, in a graded row. No statistic sees anything else."""
        return self.mask & self.graded[:, None]

    @property
    def live_rows(self) -> Bool[Tensor, " B"]:
        """Graded rows with at least one action."""
        return self.live.any(dim=1)

    def column(self, name: str) -> Tensor:
        """The tensor column `name`; raises `MissingColumn` with the columns there are."""
        value = self.extra.get(name)
        if not isinstance(value, Tensor):
            there = ", ".join(sorted(self.extra)) or "none"
            raise MissingColumn(f"no column '{name}' in the batch (there: {there}); the part that reads it must ask")
        return value

    @property
    def logp_old(self) -> Float[Tensor, "B T"]:
        """The training code's own log-probs at the weights that sampled the batch."""
        return self.column("logp_old")

    @property
    def advantage(self) -> Float[Tensor, "B T"]:
        """Advantages, filled once on the whole batch before it is split."""
        return self.column("advantage")

    def with_columns(self, **columns: Tensor | Rows) -> Batch:
        """A copy with `columns` added to (or replaced in) `extra`."""
        return replace(self, extra={**self.extra, **columns})

    def take(self, rows: Int[Tensor, " N"]) -> Batch:
        """The sequences `rows`, in that order; every column follows."""
        pick = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("extra", "key")}
        # A tensor has a `take` of its own that flattens, so tensors are told apart first.
        taken = {n: v[rows] if isinstance(v, Tensor) else v.take(rows) for n, v in pick.items()}
        extra = {n: v[rows] if isinstance(v, Tensor) else v.take(rows) for n, v in self.extra.items()}
        return replace(self, **taken, extra=extra)


@dataclass(frozen=True, kw_only=True, eq=False)
class Now:
    """What the current policy says about a `Batch`: log-probs of the actions taken and entropies (nats). Has gradient.

    Positions outside `Batch.mask` hold 0 and receive no gradient. The tensors lie on the batch's device.
    """

    logp: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def detach(self) -> Now:
        """The same numbers without gradient."""
        return Now(
            logp=self.logp.detach(),
            entropy=self.entropy.detach(),
            extra={n: v.detach() for n, v in self.extra.items()},
        )


@dataclass(frozen=True, eq=False)
class Seen:
    """What a scoring pass shows of N actions, by pass name ("policy", "reference").

    logits: at the sampling temperature. hidden: the last hidden states that predict the actions, each model's of its
    own width. weight: the LM head's matrix. values: what the extra heads of the policy say, by head. columns: the
    batch's own [B T *], at the actions.
    at: (key, uid, place in the row) of each action, for draws.
    """

    logits: Mapping[str, Float[Tensor, "N V"]]
    hidden: Mapping[str, Float[Tensor, "N _"]]
    weight: Mapping[str, Float[Tensor, "V _"]]
    values: Mapping[str, Float[Tensor, " N"]]
    action: Int[Tensor, " N"]
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    at: tuple[Int[Tensor, ""], Int[Tensor, " N"], Int[Tensor, " N"]] | None = None

    def draws(self, width: int) -> Float64[Tensor, "N W"]:
        """Uniforms for each action, a function of (key, uid, place): no cut of the batch changes them."""
        if self.at is None:
            raise ValueError("nobody said where these actions stand, so nothing can be drawn for them")
        key, uid, place = self.at
        return uniforms(key, uid, width, offset=place * width)


@dataclass(frozen=True)
class Need:
    """A column that a part wants from a scoring pass at rollout weights. Equal needs are computed once.

    compute: what is seen of N actions -> values [N] or [N K], chunk by chunk. passes: the weights that it looks at.
    per: "token" gives a column [B T] or [B T K]; "row" the mean over a row's actions, [B] or [B K]. when: "now"
    computes it in every pass of the policy instead, with a gradient through what the policy says: values [N], into
    `Now.extra`.
    """

    name: str
    compute: Callable[[Seen], Tensor]
    passes: tuple[str, ...] = ("policy",)
    per: Literal["token", "row"] = "token"
    when: Literal["rollout", "now"] = "rollout"


@runtime_checkable
class Needy(Protocol):
    """A part that wants columns from the scoring pass."""

    needs: ClassVar[tuple[Need, ...]]


@runtime_checkable
class Headed(Protocol):
    """A part that wants scalar heads on the policy's hidden states, trained with it: `Now.extra[head]` is [B T]."""

    heads: ClassVar[tuple[str, ...]]


def taken(logp: Float[Tensor, "N V"], action: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The log-prob of each action."""
    return logp.gather(1, action[:, None])[:, 0]


def entropy_of(logp: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Entropy in nats of each row; a log-prob of minus infinity adds 0 and gets no gradient."""
    finite = logp.masked_fill(logp == -torch.inf, 0.0)  # 0 * -inf would be nan, also in the gradient
    return -(logp.exp() * finite).sum(dim=-1)


def _policy_logp(seen: Seen) -> Tensor:
    return taken(torch.log_softmax(seen.logits["policy"], dim=-1), seen.action)


def _reference_logp(seen: Seen) -> Tensor:
    return taken(torch.log_softmax(seen.logits["reference"], dim=-1), seen.action)


def _policy_entropy(seen: Seen) -> Tensor:
    return entropy_of(torch.log_softmax(seen.logits["policy"], dim=-1))


def _policy_value(seen: Seen) -> Tensor:
    return seen.values["value"]


LOGP_OLD = Need("logp_old", _policy_logp)
LOGP_REF = Need("logp_ref", _reference_logp, passes=("reference",))
ENTROPY_OLD = Need("entropy_old", _policy_entropy)
VALUE_OLD = Need("value_old", _policy_value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """What an `after` part gets once an optimiser update is done. last: of its step, filled by the step."""

    batch: Batch
    now: Now
    metrics: Metrics
    index: int
    last: bool = False


@runtime_checkable
class Policy(Protocol):
    """Anything that scores a batch with gradient."""

    def __call__(self, batch: Batch) -> Now:
        """Log-probs and entropies of the actions."""
        ...


def add_metrics(total: Metrics, more: Metrics) -> Metrics:
    """The sum of two metric dictionaries, key by key."""
    out = dict(total)
    for name, (value, count) in more.items():
        have = out.get(name, (0.0, 0.0))
        out[name] = (have[0] + value, have[1] + count)
    return out


def mean_metrics(metrics: Metrics) -> dict[str, float]:
    """Sum over count; a metric with count 0 is left out, for its mean does not exist."""
    return {name: value / count for name, (value, count) in metrics.items() if count > 0}


def concat_sequences(parts: Sequence[Tensor]) -> Tensor:
    """Rows of several [b T' *] tensors as one [B T *] tensor, padded at the right with zeros."""
    width, inner = max(part.shape[1] for part in parts), (0, 0) * (parts[0].dim() - 2)
    return torch.cat([torch.nn.functional.pad(part, (*inner, 0, width - part.shape[1])) for part in parts])
