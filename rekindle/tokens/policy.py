"""A causal LM as a policy: log-probs and entropies of response tokens only, without ever holding logits [B, T, V].

Batches live on the CPU and only the model's computations are on its device: what the model says comes back to the
batch's device, and the gradient flows through that copy.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rekindle.core.types import Batch, Need, Now, Seen, entropy_of, taken
from rekindle.errors import InputError
from rekindle.tokens.heads import Precision, SplitLM, precise, refuse_dropout, split, unwrapped
from rekindle.tokens.lora import Weights, at
from rekindle.tokens.mixture import soft_of
from rekindle.tokens.packed import can_pack, packed_hidden, padded_hidden
from rekindle.tokens.packing import Packing, distinct, pack
from rekindle.tokens.passes import Where, as_wide, recomputed, where_of
from rekindle.tokens.rollouts import PromptRows
from rekindle.tokens.sampling.cache import is_plain
from rekindle.tokens.scores import HeadScores, chunk_of, slices


@dataclass(frozen=True, eq=False)
class LMPolicy:
    """`model` scored at `temperature`, the head applied to at most `chunk` tokens at a time (None: by `chunk_of`).

    The head is recomputed in the backward pass where the tokens need more than one chunk. Raises `InputError` on
    dropout and on architectures whose logits cannot be reproduced. Never changes the train mode. heads: scalar heads on
    the hidden states that predict the actions, by name; their outputs are in `Now.extra`. packs: whether real tokens
    only are computed; where the architecture does not allow that, rows are padded to the longest.
    """

    model: nn.Module
    temperature: float = 1.0
    chunk: int | None = None
    precision: Precision = "full"
    heads: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    parts: SplitLM = field(init=False, repr=False)
    packs: bool = field(init=False)

    def __post_init__(self) -> None:
        """Checks the settings and splits the model."""
        if not 0.0 < self.temperature < float("inf"):
            raise InputError(f"the policy's temperature is {self.temperature}; it must be a finite number above 0")
        if self.chunk is not None and self.chunk < 1:
            raise InputError(f"the policy's chunk is {self.chunk}; it must be at least 1 token")
        refuse_dropout(self.model)
        object.__setattr__(self, "parts", split(self.model))
        object.__setattr__(self, "packs", can_pack(self.model))

    def __call__(
        self, batch: Batch, joint: Sequence[Need] = (), references: Mapping[str, Weights] = MappingProxyType({})
    ) -> Now:
        """Log-probs of the actions and full-vocabulary entropies (nats); exactly 0 off the mask.

        Tokens off the mask and before a row's last action are context. Numbers of a row do not depend on the others
        (beyond rounding). An empty mask gives zeros that still backpropagate (zero gradients). The result lies on the
        batch's device. joint: needs that are computed here, by name in `Now.extra`, without gradient for `references`.
        """
        packing = self._pack(batch)
        with precise(self.precision, self.parts.device):
            hidden = self._hidden(self.model, packing)
            logp, entropy = self._scores(hidden, packing.action)
            more = self._joint(batch, packing, hidden, joint, references) if joint else {}
        extra = {name: _scatter(batch, values) for name, values in {**self._values(hidden), **more}.items()}
        return Now(logp=_scatter(batch, logp), entropy=_scatter(batch, entropy), extra=extra)

    def _joint(
        self,
        batch: Batch,
        packing: Packing,
        hidden: Float[Tensor, "M D"],
        joint: Sequence[Need],
        references: Mapping[str, Weights],
    ) -> dict[str, Float[Tensor, " M"]]:
        models = self._passes(joint, references)
        with torch.no_grad():
            states = {name: self._states(batch, packing, w) for name, w in models.items() if name != "policy"}
        where = where_of(batch, self.parts.device)

        def computed(own: Tensor, part: slice) -> tuple[Tensor, ...]:
            others = {name: rows[part] for name, rows in states.items()}
            seen = self._seen(models, {**others, "policy": own}, packing.action[part], where, part)
            return tuple(need.compute(seen) for need in joint)

        chunks = slices(len(packing.action), self._chunk(len(packing.action)))
        pieces = [recomputed(functools.partial(computed, part=part), hidden[part]) for part in chunks]
        return {need.name: torch.cat(column) for need, column in zip(joint, zip(*pieces, strict=True), strict=True)}

    def _states(self, batch: Batch, packing: Packing, weights: Weights) -> Float[Tensor, "M D"]:
        """Another model's hidden states; one of another kind, or with a window, gets whole rows, as any model takes."""
        with at(weights) as model:
            alike = type(unwrapped(model)) is type(unwrapped(self.model))
            if not self.packs or (alike and is_plain(model)):
                return self._hidden(model, packing)
            rows = self._pack(batch, whole=True)
            return padded_hidden(model, rows).index_select(0, rows.flat)

    def _values(self, hidden: Float[Tensor, "M D"]) -> dict[str, Float[Tensor, " M"]]:
        return {name: head(hidden.to(next(head.parameters()).dtype))[:, 0] for name, head in self.heads.items()}

    def _pack(self, batch: Batch, whole: bool = False) -> Packing:
        where = (batch.action, batch.mask, self.parts.device)
        return pack(prompts_of(batch), *where, whole=whole or not self.packs, soft=soft_of(batch))

    def _hidden(self, model: nn.Module, packing: Packing) -> Float[Tensor, "M D"]:
        states = packed_hidden(model, packing) if self.packs else padded_hidden(model, packing)
        return states.index_select(0, packing.flat)

    def _scores(self, hidden: Float[Tensor, "M D"], action: Int[Tensor, " M"]) -> tuple[Tensor, Tensor]:
        chunk = self._chunk(len(action))
        if (weight := self.parts.plain_weight) is not None:
            logp, entropy = HeadScores.apply(hidden, weight, action, self.parts.scale / self.temperature, chunk)
            return logp, entropy
        parts = slices(len(action), chunk)
        pieces = [recomputed(functools.partial(self._head_scores, action=action[p]), hidden[p]) for p in parts]
        logp, entropy = (torch.cat(column) for column in zip(*pieces, strict=True))
        return logp, entropy

    @torch.no_grad()
    def columns(
        self, batch: Batch, needs: Sequence[Need], references: Mapping[str, Weights], micro_batch: int = 32
    ) -> dict[str, Tensor]:
        """One scoring pass without gradient per model that `needs` name: column name -> values [B T], 0 off the mask.

        A need per row gives its mean over the row's actions, [B] or [B K]; one per token of several numbers [B T K].

        "policy" is this model; `references` are models of the same architecture on its device, or the start weights
        inside this one. `micro_batch` rows go together, those of a prompt side by side. The columns lie on the batch's
        device. Raises `InputError` on a pass that nobody provides.
        """
        if not needs:
            return {}
        models = self._passes(needs, references)
        order = torch.argsort(distinct(prompts_of(batch))[1], stable=True)
        pieces: dict[str, list[Tensor]] = {need.name: [] for need in needs}
        for rows in order.split(micro_batch):
            part = batch.take(rows.to(batch.mask.device))
            with precise(self.precision, self.parts.device):
                scored = self._score_needs(part, needs, models)
            for name, values in scored.items():
                pieces[name].append(values)
        back = torch.argsort(order).to(batch.mask.device)
        return {name: torch.cat(values)[back] for name, values in pieces.items()}

    def _passes(self, needs: Sequence[Need], references: Mapping[str, Weights]) -> dict[str, Weights]:
        wanted = sorted({name for need in needs for name in need.passes})
        missing = [name for name in wanted if name != "policy" and name not in references]
        if missing:
            there = ", ".join(["policy", *sorted(references)])
            raise InputError(f"no model for the scoring pass '{missing[0]}' (there: {there}); load it or drop the part")
        return {name: self.model if name == "policy" else references[name] for name in wanted}

    def _score_needs(self, batch: Batch, needs: Sequence[Need], models: Mapping[str, Weights]) -> dict[str, Tensor]:
        packing = self._pack(batch)
        hidden = {name: self._states(batch, packing, weights) for name, weights in models.items()}
        where = where_of(batch, self.parts.device)
        pieces: dict[str, list[Tensor]] = {need.name: [] for need in needs}
        for part in slices(len(packing.action), self._chunk(len(packing.action))):
            some = {name: states[part] for name, states in hidden.items()}
            seen = self._seen(models, some, packing.action[part], where, part)
            for need in needs:
                pieces[need.name].append(need.compute(seen))
        joined = {name: torch.cat(values) for name, values in pieces.items()}
        place = {need.name: row_means if need.per == "row" else _scatter for need in needs}
        return {name: place[name](batch, values) for name, values in joined.items()}

    def _chunk(self, tokens: int) -> int:
        return chunk_of(self.parts.vocabulary, tokens) if self.chunk is None else self.chunk

    def _seen(
        self, models: Mapping[str, Weights], hidden: Mapping[str, Tensor], action: Tensor, where: Where, part: slice
    ) -> Seen:
        """What needs see of the actions `part`; without gradient but for the policy's."""
        logits, matrix = {}, {}
        for name, weights in models.items():
            with at(weights) as model, torch.set_grad_enabled(torch.is_grad_enabled() and name == "policy"):
                parts = split(model, probe=False)
                logits[name] = as_wide(parts.logits(hidden[name]) / self.temperature, self.parts.vocabulary)
                assert isinstance(parts.head.weight, Tensor)
                matrix[name] = parts.head.weight
        values = self._values(hidden["policy"]) if "policy" in hidden else {}
        columns, (key, uid, place) = where
        columns = {name: values[part] for name, values in columns.items()}
        return Seen(logits, hidden, matrix, values, action, columns, (key, uid[part], place[part]))

    def _head_scores(self, hidden: Float[Tensor, "N D"], action: Int[Tensor, " N"]) -> tuple[Tensor, Tensor]:
        return logp_and_entropy(self.parts.logits(hidden) / self.temperature, action)


def logp_and_entropy(
    logits: Float[Tensor, "N V"], action: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Log-prob of `action` and entropy in nats of softmax(logits); logits of minus infinity count as probability 0."""
    logp = torch.log_softmax(logits, dim=-1)
    entropy = entropy_of(logp)  # first: the order in which gradients of logp are added decides their last bit
    return taken(logp, action), entropy


def prompts_of(batch: Batch) -> tuple[tuple[int, ...], ...]:
    """The prompt tokens of each row; `InputError` where the batch holds something else."""
    if not isinstance(batch.prompt, PromptRows):
        raise InputError(f"a language policy reads PromptRows, the batch holds {type(batch.prompt).__name__}")
    return batch.prompt.ids


def row_means(batch: Batch, values: Float[Tensor, "N *K"]) -> Float[Tensor, "B *K"]:
    """The mean of `values` (one a position of the mask, row by row) over each row's positions; 0 for an empty row."""
    row = batch.mask.nonzero()[:, 0]
    total = torch.zeros((len(batch), *values.shape[1:]), dtype=values.dtype, device=batch.mask.device)
    total = total.index_add(0, row, values.to(batch.mask.device))
    count = batch.mask.sum(dim=1).clamp(min=1)
    return total / count.view(-1, *[1] * (values.dim() - 1))


def _scatter(batch: Batch, values: Float[Tensor, "N *K"]) -> Float[Tensor, "B T *K"]:
    """`values` at the positions of the mask, on the mask's device."""
    shape = (*batch.mask.shape, *values.shape[1:])
    zeros = torch.zeros(shape, dtype=values.dtype, device=batch.mask.device)
    if values.dim() > 1:
        return zeros.index_put((batch.mask,), values.to(batch.mask.device))
    return zeros.masked_scatter(batch.mask, values.to(batch.mask.device))
