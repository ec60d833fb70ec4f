"""What scoring passes share: the batch's columns beside the actions, and what is computed again instead of kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rekindle.core.types import Batch

Where = tuple[dict[str, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(the columns [B T *] at the actions, (key, uid, place) of each action), on the model's device."""


def where_of(batch: Batch, device: torch.device) -> Where:
    """Columns and places of the actions of a batch."""
    found = {name: v for name, v in batch.extra.items() if isinstance(v, Tensor) and v.shape[:2] == batch.mask.shape}
    row, place = batch.mask.nonzero(as_tuple=True)
    columns = {name: value[batch.mask].to(device) for name, value in found.items()}
    return columns, (batch.key, batch.uid[row].to(device), place.to(device))


def as_wide(logits: Float[Tensor, "N W"], vocabulary: int) -> Float[Tensor, "N V"]:
    """The logits of a model whose table has other padding rows: cut, or filled up with what cannot be drawn."""
    missing = vocabulary - logits.shape[1]
    return torch.nn.functional.pad(logits, (0, missing), value=-torch.inf) if missing else logits


def recomputed(work: Callable[[Tensor], tuple[Tensor, ...]], hidden: Float[Tensor, "N D"]) -> tuple[Tensor, ...]:
    """What `work` gives, without keeping what it made on the way."""
    if not torch.is_grad_enabled():
        return work(hidden)
    scores = checkpoint(work, hidden, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(scores, tuple)
    return scores
