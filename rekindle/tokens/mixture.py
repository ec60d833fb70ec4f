"""Inputs that are mixtures of token embeddings: what soft thinking feeds a model instead of one token."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rekindle.core.types import Batch
from rekindle.errors import InputError
from rekindle.tokens.heads import unwrapped
from rekindle.tokens.packing import Mix, Packing


def embedding(model: nn.Module) -> nn.Module:
    """The module that turns token ids into input embeddings."""
    return cast(nn.Module, unwrapped(model).get_input_embeddings())


def blended(table: nn.Module, token: Int[Tensor, " N"], mix: Mix) -> Float[Tensor, "N D"]:
    """The embedding of each token; at the places of `mix` that of the mixture, through which no gradient flows."""
    plain = table(token)
    with torch.no_grad():
        blend = (mix.weight[..., None].to(plain.dtype) * table(mix.ids)).sum(dim=1)
    return plain.index_copy(0, mix.place, blend)


def mix_of(ids: Int[Tensor, "R K"], weight: Float[Tensor, "R K"]) -> Mix:
    """The mixtures among R rows; a row whose weights are all 0 is a plain token, whatever its ids."""
    place = (weight != 0).any(dim=1).nonzero()[:, 0]
    return Mix(place, ids[place], weight[place])


def soft_of(batch: Batch) -> tuple[Int[Tensor, "B T K"], Float[Tensor, "B T K"]] | None:
    """The columns `soft_ids` and `soft_weight` of a batch that was drawn by soft thinking, None for any other."""
    return (batch.column("soft_ids"), batch.column("soft_weight")) if "soft_weight" in batch.extra else None


def inputs(model: nn.Module, packing: Packing, rows: Int[Tensor, "R W"] | None) -> dict[str, Tensor]:
    """What the model is given of packed tokens, all in one row (None) or `rows` of them: ids where all are plain."""
    if packing.mix is None:
        return {"input_ids": packing.ids[None] if rows is None else packing.ids[rows]}
    states = blended(embedding(model), packing.ids, packing.mix)
    return {"inputs_embeds": states[None] if rows is None else states[rows]}


@torch.no_grad()
def refuse_unmixable(model: nn.Module) -> None:
    """InputError where the model does not say of embeddings what it says of their tokens (it looks at ids besides)."""
    inner = unwrapped(model)
    ids = torch.arange(3, device=next(inner.parameters()).device)[None] % inner.config.get_text_config().vocab_size
    whole = inner.base_model(input_ids=ids, use_cache=False, return_dict=True).last_hidden_state
    try:
        given = {"inputs_embeds": embedding(model)(ids), "use_cache": False, "return_dict": True}
        again = inner.base_model(**given).last_hidden_state
    except (TypeError, ValueError, RuntimeError):
        again = torch.full_like(whole, torch.inf)
    if not bool(torch.allclose(again, whole, rtol=1e-3, atol=1e-3, equal_nan=True)):  # nan: others tell of that
        raise InputError(
            f"architecture '{type(inner).__name__}' does not take embeddings in place of tokens, which soft thinking "
            "feeds it: use another architecture or a method of discrete tokens"
        )
