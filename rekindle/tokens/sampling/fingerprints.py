"""Whether weights arrived: one print per tensor of the training model, taken from what the engine computes with.

An engine keeps other tensors than the trainer (q, k and v in one matrix, weights packed for the processor's kernels),
so equal files prove nothing. Where its parameters are the numbers that it multiplies by, the print is an exact hash of
the tensor's part of them. Where a packed copy is used in their place, the layer itself is run: on unit vectors, which
read a few columns of W back bit by bit, and on vectors of signs, for r' W x sees every element, within rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rekindle.core.random import pack_key, uniforms

Prints = dict[str, dict[str, list[float] | int | None]]
"""Tensor name -> {"hash": int}, of packed ones of some columns and with "products"; None: the engine has no such."""

PRODUCTS, COLUMNS = 4, 8
CHUNK = 1 << 20
INPUT_TABLES = ("VocabParallelEmbedding",)
"""Classes of layers that look rows up in their weight and never multiply by it."""


def signs(rows: int, width: int, salt: int) -> Float[Tensor, "R W"]:
    """+1 and -1, the same on every machine."""
    return (uniforms(pack_key(salt, 0, 0), torch.arange(rows), width) < 0.5).double() * 2 - 1


def exact(value: Tensor, first: int = 0) -> int:
    """A hash of the bits: sum of bits_i * odd_i modulo 2**64, position by position; pieces of a tensor add up to it.

    first: the position of the first element, where `value` is a piece. A change of a single element changes the hash.
    """
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = value.detach().contiguous().view(-1).view(kinds[value.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for start in range(0, len(bits), CHUNK):
        part = bits[start : start + CHUNK].to(torch.int64)
        total += ((part + 1) * _odd(torch.arange(first + start, first + start + len(part), device=bits.device))).sum()
    return int(total.item())


def _odd(position: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    mixed = (position + 1) * (0x9E3779B97F4A7C15 - 2**64)
    mixed = (mixed ^ (mixed >> 29)) * (0xBF58476D1CE4E5B9 - 2**64)
    return (mixed ^ (mixed >> 32)) | 1


def packed_print(outputs: Float[Tensor, "K N"]) -> dict[str, list[float] | int | None]:
    """The print of W from its products with `inputs`: r' y of the signs, in double precision, and the columns' hash."""
    first = outputs[:PRODUCTS].double().cpu()
    sums = (first * signs(PRODUCTS, outputs.shape[1], 1)).sum(dim=1)
    return {"products": sums.tolist(), "hash": exact(outputs[PRODUCTS:] + 0.0)}  # -0 is 0


def inputs(width: int) -> Float[Tensor, "K W"]:
    """The vectors that a packed layer is run on: signs, then unit vectors spread over the columns."""
    units = torch.zeros(COLUMNS, width, dtype=torch.float64)
    units[torch.arange(COLUMNS), torch.arange(COLUMNS) * width // COLUMNS] = 1.0
    return torch.cat([signs(PRODUCTS, width, 2), units])


def own_prints(weights: Mapping[str, Tensor], theirs: Prints) -> Prints:
    """The prints of `weights` (in the engine's number format), of the same kinds as in the engine's answer `theirs`."""
    found: Prints = {}
    for name, told in theirs.items():
        weight = weights[name]
        if "products" not in told:
            found[name] = {"hash": exact(weight)}
            continue
        x = inputs(weight.shape[1]).to(weight.device)
        y = torch.nn.functional.linear(x, weight.double())
        columns = exact(y[PRODUCTS:].to(weight.dtype) + 0.0)
        found[name] = packed_print(y) | {"hash": columns}
    return found


def differing(weights: Mapping[str, Tensor], theirs: Prints, tolerance: float) -> list[str]:
    """The tensors whose prints in the engine are not those of `weights`, or that it does not know.

    tolerance: of products, as a share of the tensor's norm (the spread of r' W x over signs); hashes are exact.
    """
    mine = own_prints(weights, theirs)
    wrong = [name for name in weights if name not in theirs]
    for name, told in theirs.items():
        ours = mine[name]
        same = told["hash"] == ours["hash"]
        if "products" in told:
            gap = max(abs(a - b) for a, b in zip(_list(told["products"]), _list(ours["products"]), strict=True))
            same = same and gap <= tolerance * max(weights[name].double().norm().item(), 1e-30)
        wrong += [] if same else [name]
    return wrong


def _list(value: list[float] | int | None) -> list[float]:
    assert isinstance(value, list)
    return value


def headless(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Tied tensors for which the engine has no layer of its own -> the equal table that it multiplies by instead."""
    layers = dict(model.named_modules(remove_duplicate=False))
    tables = [name for name in weights if type(layers.get(name.rpartition(".")[0])).__name__ in INPUT_TABLES]
    found: dict[str, str] = {}
    for name in (name for name in weights if name.rpartition(".")[0] not in layers):
        twins = [table for table in tables if weights[table].shape == weights[name].shape]
        if twins and torch.equal(weights[twins[0]], weights[name]):
            found[name] = twins[0]
    return found


def engine_prints(
    model: Any,
    shapes: Mapping[str, Sequence[int]],
    packed: Mapping[str, Sequence[str]],
    heads: Mapping[str, str] | None = None,
) -> Prints:
    """The print of every tensor in `shapes` (names and shapes of the training model) in the engine's `model`.

    packed: the engine's fused layers, such as {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}. heads: from `headless`.
    """
    prints = {name: _print(model, name, shapes, packed) for name in shapes if name not in (heads or {})}
    return prints | {name: _print(model, name, shapes, packed, table) for name, table in (heads or {}).items()}


@torch.no_grad()
def _print(
    model: Any,
    name: str,
    shapes: Mapping[str, Sequence[int]],
    packed: Mapping[str, Sequence[str]],
    table: str | None = None,
) -> dict[str, list[float] | int | None]:
    layer, first = _layer(model, table or name, shapes, packed)
    kind, rows = name.rpartition(".")[2], shapes[name][0] if shapes[name] else 1
    if layer is None:
        return {"hash": None}
    packs = "cpu_linear" in vars(layer) and (table is not None or type(layer).__name__ not in INPUT_TABLES)
    if kind == "weight" and packs and len(shapes[name]) == 2:
        x = inputs(shapes[name][1]).to(next(model.parameters()))
        return packed_print(layer.quant_method.apply(layer, x, None)[:, first : first + rows])
    held = dict(layer.named_parameters(recurse=False)) | dict(layer.named_buffers(recurse=False))
    if kind not in held or held[kind].shape[1:] != torch.Size(shapes[name][1:]):
        return {"hash": None}
    return {"hash": exact(held[kind][first : first + rows])}


def _layer(
    model: nn.Module, name: str, shapes: Mapping[str, Sequence[int]], packed: Mapping[str, Sequence[str]]
) -> tuple[Any, int]:
    """The engine's layer that holds a tensor, and the tensor's first row in it; (None, 0) where there is none."""
    path, _, kind = name.rpartition(".")
    parent, _, last = path.rpartition(".")
    layers = dict(model.named_modules(remove_duplicate=False))
    if path in layers:
        return layers[path], 0
    for fused, parts in packed.items():
        whole = f"{parent}.{fused}"
        if last in parts and whole in layers:
            before = [f"{parent}.{part}.{kind}" for part in parts[: parts.index(last)]]
            return layers[whole], sum(shapes[other][0] for other in before if other in shapes)
    return None, 0
