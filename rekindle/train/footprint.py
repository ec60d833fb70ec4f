"""The sizes of a model from its configuration alone: built on torch's meta device, which holds no numbers."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from rekindle.errors import InputError
from rekindle.tokens.fetching import guarded, quiet
from rekindle.tokens.heads import unwrapped
from rekindle.tokens.loader import EMBEDDED_TASKS, context_length

LAID_OUT = 1 << 16
"""Weights of a linear layer from which the sampler lays out a copy for a CPU (`sampling/laid_out.py`)."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Numbers of a causal LM. layer: parameters of its largest layer, root: of what is outside of layers.

    linears: (name, inputs, outputs) of its linear layers but the head. query, key: widths of all heads together.
    inner: width of the MLP that one token passes through, matrices: of that MLP (3 where it is gated). head_norms:
    whether queries and keys are normalised by head. context: the most positions, None where there is no limit.
    """

    kind: str
    parameters: int
    layer: int
    root: int
    linears: tuple[tuple[str, int, int], ...]
    layers: int
    hidden: int
    query: int
    key: int
    heads: int
    inner: int
    matrices: int
    vocabulary: int
    tied: bool
    head_norms: bool
    context: int | None

    @property
    def linear(self) -> int:
        """Weights of linear layers without the head: what autocast keeps a narrow copy of."""
        return sum(inputs * outputs for _, inputs, outputs in self.linears)

    @property
    def head(self) -> int:
        """Weights of the language-model head."""
        return self.vocabulary * self.hidden

    @property
    def laid_out(self) -> int:
        """Weights that the local sampler holds twice on a CPU."""
        sizes = [inputs * outputs for _, inputs, outputs in self.linears] + [self.head]
        return sum(size for size in sizes if size >= LAID_OUT)

    def adapters(self, rank: int, targets: Sequence[str] = ("all-linear",)) -> int:
        """Parameters of low-rank adapters of `rank` at the linear layers whose names end in one of `targets`."""
        every = "all-linear" in targets
        return rank * sum(i + o for name, i, o in self.linears if every or _named_by(name, targets))


def _named_by(name: str, targets: Sequence[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def footprint(spec: str, task: str | None = None) -> Footprint:
    """Of 'embedded' (the packaged model of `task`), a folder that holds a config.json, or a hub id.

    No weights are read. InputError where there is no configuration that transformers can build a causal LM of.
    """
    with quiet(), torch.random.fork_rng(devices=[]):
        config = guarded(spec, lambda: AutoConfig.from_pretrained(place(spec, task), trust_remote_code=False))
        with torch.device("meta"):
            model = guarded(spec, lambda: AutoModelForCausalLM.from_config(config, trust_remote_code=False))
    return measured(model)


def measured(model: nn.Module) -> Footprint:
    """The numbers of a model that is there; adapters are not counted."""
    inner = unwrapped(model)
    config: Any = inner.config.get_text_config()
    values = {**config.to_dict(), **{n: _named(config, n) for n in ("hidden_size", "num_attention_heads")}}
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    size = values.get("head_dim") or hidden // heads
    kv = values.get("num_key_value_heads") or heads
    head = inner.get_output_embeddings()
    own = {n: p for n, p in inner.named_parameters() if "lora_" not in n}
    stacks = _layers(inner)
    each = [sum(p.numel() for n, p in layer.named_parameters() if "lora_" not in n) for layer in stacks]
    total = sum(p.numel() for p in own.values())
    linears = tuple(
        (name.removesuffix(".base_layer"), m.in_features, m.out_features)
        for name, m in inner.named_modules()
        if isinstance(m, nn.Linear) and m is not head and "lora_" not in name
    )
    width, matrices = _mlp(values, hidden)
    return Footprint(
        kind=type(inner).__name__,
        parameters=total,
        layer=max(each, default=0),
        root=total - sum(each),
        linears=linears,
        layers=len(stacks),
        hidden=hidden,
        query=heads * size,
        key=kv * size,
        heads=heads,
        inner=width,
        matrices=matrices,
        vocabulary=0 if head is None else int(head.weight.shape[0]),
        tied=head is not None and head.weight is inner.get_input_embeddings().weight,
        head_norms=any("q_norm" in name for name in own),
        context=context_length(inner),
    )


def place(spec: str, task: str | None) -> str:
    """What transformers reads of a model: the folder of 'embedded', a folder (of an adapter: its base), or a hub id."""
    if spec == "embedded":
        name = task if task in EMBEDDED_TASKS else "reduce"
        return str(Path(str(importlib.resources.files("rekindle"))) / "assets" / str(name))
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        return spec
    if (folder / "config.json").is_file():
        return str(folder)
    if (base := _adapter(folder).get("base_model_name_or_path")) is None:
        raise InputError(f"model '{spec}': no config.json in the folder: name a folder written by save_pretrained")
    return str(base)


def adapter_rank(spec: str) -> int:
    """The rank of the adapter in the folder `spec`, 0 where it is none."""
    return int(_adapter(Path(spec).expanduser()).get("r") or 0)


def _adapter(folder: Path) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _named(config: Any, name: str) -> Any:
    """A number that older architectures keep under a name of their own (GPT-2's n_embd)."""
    return config.to_dict().get(config.attribute_map.get(name, name))


def _layers(model: nn.Module) -> list[nn.Module]:
    """The longest list of modules of one class: the decoder layers."""
    lists = [list(m) for m in model.modules() if isinstance(m, nn.ModuleList)]
    return max(lists, key=len, default=[])


def _mlp(values: dict[str, Any], hidden: int) -> tuple[int, int]:
    """(width of the MLP that a token passes through, its matrices); of experts, those that a token is sent to."""
    width = values.get("intermediate_size") or values.get("n_inner") or 4 * hidden
    sent = values.get("num_experts_per_tok")
    if sent and values.get("moe_intermediate_size"):
        width = sent * values["moe_intermediate_size"]
    gated = values.get("hidden_act") in ("silu", "swish", "gelu_pytorch_tanh") and "n_inner" not in values
    return width, 3 if gated else 2
