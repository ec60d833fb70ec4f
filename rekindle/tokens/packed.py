"""Hidden states of packed tokens: the model as it is, with an attention function that knows which token sees which."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from rekindle.errors import InputError
from rekindle.tokens.heads import split, unwrapped
from rekindle.tokens.mixture import inputs
from rekindle.tokens.packing import SHORT, Bucket, Packing, pack
from rekindle.tokens.sampling.cache import is_plain

_PACKED = "rekindle_packed"
_NOT_DONE = ("sliding_window", "softcap", "s_aux", "position_bias")


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "1 Q N D"],
    key: Float[Tensor, "1 H N D"],
    value: Float[Tensor, "1 H N E"],
    _mask: Tensor | None,
    scaling: float | None = None,
    packing: Packing | None = None,
    **more: Any,
) -> tuple[Float[Tensor, "1 N Q E"], None]:
    """Attention of packed tokens in transformers' calling convention.

    Raises `TypeError` where the model does not hand `packing` on, or asks for what is not done here (a window).
    """
    asked = [name for name in _NOT_DONE if more.get(name) is not None]
    if packing is None or asked:
        raise TypeError(f"{type(module).__name__} cannot attend to packed tokens ({', '.join(asked) or 'no packing'})")
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    outs = []
    for bucket in packing.buckets:
        states = (_rows(query, bucket.query), _rows(key, bucket.key), _rows(value, bucket.key))
        small = bucket.key.shape[1] <= SHORT and query.device.type == "cpu"
        attend = _products if small else _fused
        outs.append(attend(*states, bucket, scale).transpose(1, 2).flatten(0, 1).flatten(1))
    back = functional.embedding(packing.home, torch.cat(outs))
    return back.view(1, -1, query.shape[1], value.shape[3]), None


def _rows(states: Float[Tensor, "1 H N D"], row: Int[Tensor, "R W"]) -> Float[Tensor, "R H W D"]:
    """Gathered by an embedding, whose backward pass adds up in parallel and in a fixed order."""
    _, heads, _, size = states.shape
    flat = states[0].transpose(0, 1).flatten(1)
    return functional.embedding(row, flat).unflatten(2, (heads, size)).transpose(1, 2)


def _fused(query: Tensor, key: Tensor, value: Tensor, bucket: Bucket, scale: float) -> Float[Tensor, "R Q W E"]:
    shared = query.shape[1] // key.shape[1]
    if bucket.mask is None:
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=shared > 1
        )
    # With a mask, shared heads would send a GPU to a kernel that holds all scores.
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=bucket.mask, scale=scale)


def _products(query: Tensor, key: Tensor, value: Tensor, bucket: Bucket, scale: float) -> Float[Tensor, "R Q W E"]:
    """Query heads of one key-value head are rows of one product; softmax in float32 or wider."""
    rows, heads, width, size = query.shape
    mask = torch.ones(width, width, dtype=torch.bool, device=key.device).tril() if bucket.mask is None else bucket.mask
    bias = torch.zeros(mask.shape, dtype=query.dtype, device=key.device).masked_fill_(~mask, -torch.inf)
    folded = (query * scale).reshape(rows, key.shape[1], -1, size)
    score = torch.matmul(folded, key.transpose(2, 3)).view(rows, heads, width, -1).add_(bias)
    wide = torch.float64 if score.dtype == torch.float64 else torch.float32
    share = torch.softmax(score, dim=-1, dtype=wide).to(value.dtype)
    out = torch.matmul(share.view(rows, key.shape[1], -1, share.shape[3]), value)
    return out.view(rows, heads, width, value.shape[3])


AttentionInterface.register(_PACKED, packed_attention)


@contextmanager
def packed(config: Any) -> Iterator[None]:
    """Lets the model of `config` attend by `packed_attention` while inside."""
    before = config._attn_implementation
    config._attn_implementation = _PACKED
    try:
        yield
    finally:
        config._attn_implementation = before


def checkpoint_layers(model: nn.Module) -> None:
    """Recompute each layer in the backward pass. `InputError` where the architecture does not offer it.

    The recomputation happens outside of any forward pass, so it is given the attention that the first one had.
    """
    inner = unwrapped(model)
    if not inner.supports_gradient_checkpointing:
        name = type(inner).__name__
        raise InputError(f"architecture '{name}' has no gradient checkpointing: set checkpointing=false")

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        again = packed(inner.config) if inner.config._attn_implementation == _PACKED else nullcontext()
        return nullcontext(), again

    inner.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})


def packed_hidden(model: nn.Module, packing: Packing) -> Float[Tensor, "N D"]:
    """The last hidden state of each packed token."""
    inner = unwrapped(model)
    with packed(inner.config):
        out = inner.base_model(
            **inputs(model, packing, None),
            position_ids=packing.position[None],
            packing=packing,
            use_cache=False,
            return_dict=True,
        )
    return out.last_hidden_state[0]


@torch.no_grad()
def can_pack(model: nn.Module) -> bool:
    """Whether the model says of packed tokens what it says of whole rows. Touches neither state nor mode."""
    try:
        if not is_plain(model):
            return False
    except InputError:  # no cache at all: such a model can be scored, if not decoded
        return False
    parts = split(model, probe=False)
    tokens = torch.tensor([(7 * i + 3) % parts.vocabulary for i in range(9)])
    prompts = tuple(tuple(tokens[:size].tolist()) for size in (4, 4, 2))
    given = (prompts, tokens.repeat(3, 1)[:, 4:], torch.arange(5) < torch.tensor([[5], [2], [4]]), parts.device)
    mine, whole = pack(*given), pack(*given, whole=True)
    try:
        packed_states = packed_hidden(model, mine)
    except (TypeError, ValueError, RuntimeError):
        return False
    padded_states = padded_hidden(model, whole)
    narrow = padded_states.dtype not in (torch.float32, torch.float64)
    far = float((packed_states - padded_states).abs().max())
    return far <= (0.1 if narrow else 1e-3) * float(padded_states.abs().max())


def padded_hidden(model: nn.Module, packing: Packing) -> Float[Tensor, "N D"]:
    """The same of a packing made `whole`: every row with its prompt, padded to the longest."""
    (bucket,) = packing.buckets
    inner = unwrapped(model).base_model
    given = inputs(model, packing, bucket.query)
    hidden = inner(**given, use_cache=False, return_dict=True).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, packing.home)
