"""The MLP of a model as one token passes through it, read from its modules, and from its configuration for experts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

_GATES = re.compile(r"(^|\.)(gate_proj|gate_up_proj|up_gate_proj|w3|input_linear)(\.|$)")
_SLOW = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh_python")  # written out in Python: each product is kept


class Mlp(NamedTuple):
    """inner: its width (of experts, of all that a token is sent to). matrices: 3 where it is gated, else 2.

    kept: tensors of this width that autograd keeps: the inputs of the activation and of the last product, and what a
    gate multiplies.
    """

    inner: int
    matrices: int
    kept: int


Linear = tuple[str, int, int]
"""Name, inputs and outputs."""


def mlp(values: Mapping[str, Any], hidden: int, linears: Sequence[Linear], names: Sequence[str]) -> Mlp:
    """The MLP of a model with these configuration values, linear layers and names of parameters."""
    width = _widest(values.get("intermediate_size") or values.get("n_inner") or values.get("ffn_dim") or 4 * hidden)
    expert = _widest(values.get("moe_intermediate_size") or width)
    sent = values.get("num_experts_per_tok") or values.get("top_k_experts")
    experts = bool(sent) and any(re.search(r"\bexperts\b", name) for name in names)
    gated = _gated(width, hidden, linears) or any(_GATES.search(name) for name in names)
    if experts:
        shared = values.get("shared_expert_intermediate_size") or (values.get("n_shared_experts") or 0) * expert
        width = int(sent or 1) * expert + shared
    act = values.get("hidden_act") or values.get("activation_function")
    return Mlp(width, 3 if gated else 2, 4 if gated else 5 if act in _SLOW else 2)


def _widest(width: Any) -> int:
    """Of layers with widths of their own, the largest."""
    return max(width) if isinstance(width, list | tuple) else int(width)


def _gated(width: int, hidden: int, linears: Sequence[Linear]) -> bool:
    """Whether as many as two matrices lead into a layer of this width, side by side or in one."""
    into: dict[str, int] = {}
    for name, inputs, outputs in linears:
        if inputs == hidden and outputs in (width, 2 * width):
            parent = name.rpartition(".")[0]
            into[parent] = into.get(parent, 0) + outputs
    out = {name.rpartition(".")[0] for name, inputs, outputs in linears if (inputs, outputs) == (width, hidden)}
    return width != hidden and any(into.get(parent, 0) >= 2 * width for parent in out)


class Adapted(NamedTuple):
    """Of a decoder layer on average: widths of what adapters keep as their inputs; linear layers that have one."""

    inputs: float
    layers: float


def adapted(linears: Sequence[Linear], layers: int, wanted: Callable[[str], bool], copies: bool) -> Adapted:
    """Adapters at the `wanted` linear layers, as one token passes through them: of experts, one of each kind.

    Layers of one module have one input together, but for its last one, which takes what the others led to. copies:
    each has a copy of its own.
    """
    last = {name.rpartition(".")[0]: name for name, _, _ in linears}
    kinds: dict[str, set[str]] = {}  # of inputs: modules that have one
    found, count = {}, 0.0
    for name, inputs, _ in linears:
        if not wanted(name):
            continue
        parent = name.rpartition(".")[0]
        alone = copies or last[parent] == name
        kind = _numberless(name if alone else f"{parent} {inputs}")
        kinds.setdefault(kind, set()).add(parent)
        found[kind] = inputs
        count += 1
    shares = {kind: min(1.0, len(parents) / max(1, layers)) for kind, parents in kinds.items()}
    return Adapted(sum(found[kind] * share for kind, share in shares.items()), count / max(1, layers))


def _numberless(name: str) -> str:
    """The name of a module without the numbers of layer and expert."""
    return re.sub(r"(?<=\.)\d+(?=\.| |$)", "*", name)
