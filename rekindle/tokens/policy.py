"""A causal LM as a policy: log-probs and entropies of response tokens only, without ever holding logits [B, T, V].

Batches live on the CPU and only the model's computations are on its device: what the model says comes back to the
batch's device, and the gradient flows through that copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rekindle.core.types import Batch, Need, Now, Seen, entropy_of, taken
from rekindle.errors import InputError
from rekindle.tokens.heads import SplitLM, refuse_dropout, split
from rekindle.tokens.rollouts import PromptRows


@dataclass(frozen=True, eq=False)
class Layout:
    """Rows as model input. `flat` indexes hidden states [B * W] at the positions that predict `action`."""

    ids: Int[Tensor, "B W"]
    flat: Int[Tensor, " N"]
    action: Int[Tensor, " N"]


@dataclass(frozen=True, eq=False)
class LMPolicy:
    """`model` scored at `temperature`, the head applied to at most `chunk` tokens at a time.

    The head is recomputed in the backward pass, so at most [chunk, V] logits exist. Raises `InputError` on dropout
    and on architectures whose logits cannot be reproduced. Never changes the train mode. heads: scalar heads on the
    hidden states that predict the actions, by name; their outputs are in `Now.extra`.
    """

    model: nn.Module
    temperature: float = 1.0
    chunk: int = 2048
    heads: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    parts: SplitLM = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Checks the settings and splits the model."""
        if not 0.0 < self.temperature < float("inf"):
            raise InputError(f"the policy's temperature is {self.temperature}; it must be a finite number above 0")
        if self.chunk < 1:
            raise InputError(f"the policy's chunk is {self.chunk}; it must be at least 1 token")
        refuse_dropout(self.model)
        object.__setattr__(self, "parts", split(self.model))

    def __call__(self, batch: Batch) -> Now:
        """Log-probs of the actions and full-vocabulary entropies (nats); exactly 0 off the mask.

        Tokens off the mask and before a row's last action are context. Numbers of a row do not depend on the others
        (beyond rounding). An empty mask gives zeros that still backpropagate (zero gradients). The result lies on the
        batch's device.
        """
        layout = lay_out(batch, self.parts.device)
        hidden = _pick(self.parts.hidden(layout.ids), layout.flat)
        scores = [self._scores(hidden[part], layout.action[part]) for part in _chunks(len(layout.action), self.chunk)]
        logp, entropy = (torch.cat(column) for column in zip(*scores, strict=True))
        extra = {name: _scatter(batch, head(hidden)[:, 0]) for name, head in self.heads.items()}
        return Now(logp=_scatter(batch, logp), entropy=_scatter(batch, entropy), extra=extra)

    @torch.no_grad()
    def columns(
        self, batch: Batch, needs: Sequence[Need], references: Mapping[str, nn.Module], micro_batch: int = 32
    ) -> dict[str, Tensor]:
        """One scoring pass without gradient per model that `needs` name: column name -> values [B T], 0 off the mask.

        A need per row gives its mean over the row's actions, [B] or [B K].

        "policy" is this model; `references` are models of the same architecture on its device. `micro_batch` rows go
        together, rows of like length side by side. The columns lie on the batch's device. Raises `InputError` on a
        pass that nobody provides.
        """
        if not needs:
            return {}
        models = self._passes(needs, references)
        length = torch.tensor([len(row) for row in _prompts(batch).ids]) + _context(batch).cpu()
        order = torch.argsort(length, stable=True)
        pieces: dict[str, list[Tensor]] = {need.name: [] for need in needs}
        for rows in order.split(micro_batch):
            part = batch.take(rows.to(batch.mask.device))
            for name, values in self._score_needs(part, needs, models).items():
                pieces[name].append(values)
        back = torch.argsort(order).to(batch.mask.device)
        return {name: torch.cat(values)[back] for name, values in pieces.items()}

    def _passes(self, needs: Sequence[Need], references: Mapping[str, nn.Module]) -> dict[str, SplitLM]:
        wanted = sorted({name for need in needs for name in need.passes})
        missing = [name for name in wanted if name != "policy" and name not in references]
        if missing:
            there = ", ".join(["policy", *sorted(references)])
            raise InputError(f"no model for the scoring pass '{missing[0]}' (there: {there}); load it or drop the part")
        return {name: self.parts if name == "policy" else split(references[name], probe=False) for name in wanted}

    def _score_needs(self, batch: Batch, needs: Sequence[Need], models: Mapping[str, SplitLM]) -> dict[str, Tensor]:
        layout = lay_out(batch, self.parts.device)
        hidden = {name: _pick(parts.hidden(layout.ids), layout.flat) for name, parts in models.items()}
        pieces: dict[str, list[Tensor]] = {need.name: [] for need in needs}
        for part in _chunks(len(layout.action), self.chunk):
            seen = self._seen(models, {name: states[part] for name, states in hidden.items()}, layout.action[part])
            for need in needs:
                pieces[need.name].append(need.compute(seen))
        joined = {name: torch.cat(values) for name, values in pieces.items()}
        place = {need.name: row_means if need.per == "row" else _scatter for need in needs}
        return {name: place[name](batch, values) for name, values in joined.items()}

    def _seen(self, models: Mapping[str, SplitLM], hidden: Mapping[str, Tensor], action: Tensor) -> Seen:
        weights = {name: parts.head.weight for name, parts in models.items()}
        return Seen(
            logits={name: models[name].logits(hidden[name]) / self.temperature for name in models},
            hidden=hidden,
            weight={name: weight for name, weight in weights.items() if isinstance(weight, Tensor)},
            values={name: head(hidden["policy"])[:, 0] for name, head in self.heads.items() if "policy" in hidden},
            action=action,
        )

    def _scores(self, hidden: Float[Tensor, "N D"], action: Int[Tensor, " N"]) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            return self._head_scores(hidden, action)
        scores = checkpoint(self._head_scores, hidden, action, use_reentrant=False, preserve_rng_state=False)
        assert isinstance(scores, tuple)
        return scores

    def _head_scores(self, hidden: Float[Tensor, "N D"], action: Int[Tensor, " N"]) -> tuple[Tensor, Tensor]:
        return logp_and_entropy(self.parts.logits(hidden) / self.temperature, action)


def logp_and_entropy(
    logits: Float[Tensor, "N V"], action: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Log-prob of `action` and entropy in nats of softmax(logits); logits of minus infinity count as probability 0."""
    logp = torch.log_softmax(logits, dim=-1)
    entropy = entropy_of(logp)  # first: the order in which gradients of logp are added decides their last bit
    return taken(logp, action), entropy


def lay_out(batch: Batch, device: torch.device) -> Layout:
    """Prompts and responses, right-padded to the longest, without each row's last action (it predicts nothing).

    Raises `InputError` on an empty prompt whose first token is an action: nothing predicts it.
    """
    prompts = _prompts(batch).ids
    action, mask = batch.action.to(device), batch.mask.to(device)
    size = torch.tensor([len(row) for row in prompts], dtype=torch.int64, device=device)
    rows, columns = mask.nonzero(as_tuple=True)
    if bool(((size[rows] == 0) & (columns == 0)).any()):
        raise InputError("a prompt has no tokens, so nothing predicts its first action: prepend a BOS token")
    fed = (_context(batch).to(device) - 1).clamp(min=0)
    width = max(int((size + fed).max()) if len(prompts) else 1, 1)
    ids = torch.zeros(max(len(prompts), 1), width, dtype=torch.int64, device=device)
    if len(prompts):
        column = torch.arange(width, device=device)
        in_prompt = column < size[:, None]
        ids[in_prompt] = torch.tensor([token for row in prompts for token in row], dtype=torch.int64, device=device)
        inside = torch.arange(action.shape[1], device=device) < fed[:, None]
        ids[~in_prompt & (column < (size + fed)[:, None])] = action[inside]
    return Layout(ids, rows * width + size[rows] + columns - 1, action[rows, columns])


def _prompts(batch: Batch) -> PromptRows:
    if not isinstance(batch.prompt, PromptRows):
        raise InputError(f"a language policy reads PromptRows, the batch holds {type(batch.prompt).__name__}")
    return batch.prompt


def _context(batch: Batch) -> Int[Tensor, " B"]:
    """Columns up to and including each row's last action; 0 for a row without one."""
    column = torch.arange(1, batch.mask.shape[1] + 1, device=batch.mask.device)
    return (batch.mask * column).amax(dim=1) if batch.mask.shape[1] else batch.mask.sum(dim=1)


def _pick(hidden: Float[Tensor, "B W D"], flat: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
    return hidden.flatten(0, 1).index_select(0, flat)


def _chunks(total: int, chunk: int) -> list[slice]:
    """Slices that cover `total` tokens; one empty slice where there are none, so that the head still runs."""
    return [slice(start, start + chunk) for start in range(0, max(total, 1), chunk)]


def row_means(batch: Batch, values: Float[Tensor, "N *K"]) -> Float[Tensor, "B *K"]:
    """The mean of `values` (one a position of the mask, row by row) over each row's positions; 0 for an empty row."""
    row = batch.mask.nonzero()[:, 0]
    total = torch.zeros((len(batch), *values.shape[1:]), dtype=values.dtype, device=batch.mask.device)
    total = total.index_add(0, row, values.to(batch.mask.device))
    count = batch.mask.sum(dim=1).clamp(min=1)
    return total / count.view(-1, *[1] * (values.dim() - 1))


def _scatter(batch: Batch, values: Float[Tensor, " N"]) -> Float[Tensor, "B T"]:
    """`values` at the positions of the mask, on the mask's device."""
    zeros = torch.zeros(batch.mask.shape, dtype=values.dtype, device=batch.mask.device)
    return zeros.masked_scatter(batch.mask, values.to(batch.mask.device))
