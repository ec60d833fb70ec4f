"""The sizes of a model from its configuration alone: built on torch's meta device, which holds no numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from rekindle.errors import InputError
from rekindle.tokens.adapters import AdapterFolder, said_by
from rekindle.tokens.fetching import CONFIGURATION, guarded, quiet
from rekindle.tokens.heads import unwrapped
from rekindle.tokens.loader import adapter_of, configured, context_length
from rekindle.tokens.lora import ALL_LINEAR, refuse_mixed
from rekindle.train.widths import Adapted, Linear, Mlp, adapted, mlp

LAID_OUT = 1 << 16
"""Weights of a linear layer from which the sampler lays out a copy for a CPU (`sampling/laid_out.py`)."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Numbers of a causal LM. layer: parameters of its largest layer, root: of what is outside of layers.

    linears: (name, inputs, outputs) of its linear layers but the head; others: of the head and the embeddings. query,
    key: widths of all heads together. mlp: what one token passes through. head_norms: whether queries and keys are
    normalised by head. context: the most positions, None where there is no limit. adapter: rank of the adapter that
    its name stands for (0: none), at the layers `own`.
    """

    kind: str
    parameters: int
    layer: int
    root: int
    linears: tuple[Linear, ...]
    others: tuple[Linear, ...]
    layers: int
    hidden: int
    query: int
    key: int
    heads: int
    mlp: Mlp
    vocabulary: int
    tied: bool
    head_norms: bool
    context: int | None
    adapter: int = 0
    own: tuple[str, ...] = ALL_LINEAR

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

    def adapters(self, rank: int, targets: Sequence[str] = ALL_LINEAR) -> int:
        """Parameters of low-rank adapters of `rank` at the layers whose names end in one of `targets`."""
        some = self.linears if ALL_LINEAR[0] in targets else (*self.linears, *self.others)
        return rank * sum(i + o for name, i, o in some if _adapted(name, targets))

    def adapted(self, targets: Sequence[str], copies: bool) -> Adapted:
        """What adapters at `targets` keep of a layer. copies: each its input by itself."""
        return adapted(self.linears, self.layers, lambda name: _adapted(name, targets), copies)


def _adapted(name: str, targets: Sequence[str]) -> bool:
    return any(target == ALL_LINEAR[0] or name == target or name.endswith(f".{target}") for target in targets)


def footprint(spec: str, task: str | None = None) -> Footprint:
    """Of 'embedded' (the packaged model of `task`), a folder that holds a config.json or an adapter, or a hub id.

    No weights of a model are read. InputError where there is no configuration that transformers can build a causal LM
    of, or where that is of a kind whose memory is not known.
    """
    adapter = adapter_of(spec)
    source = _source(spec, adapter, task)
    with quiet(), torch.random.fork_rng(devices=[]):
        config = guarded(spec, lambda: AutoConfig.from_pretrained(source, trust_remote_code=False), CONFIGURATION)
        with torch.device("meta"):
            model = guarded(
                spec, lambda: AutoModelForCausalLM.from_config(config, trust_remote_code=False), CONFIGURATION
            )
    rank, own = _shape(adapter)
    return replace(measured(model), adapter=rank, own=own)


def check_targets(model: Footprint, targets: Sequence[str]) -> None:
    """InputError where the model has no layer that `targets` name for adapters, or shares the weights of one."""
    refuse_mixed(targets)
    shared = [name.rpartition(".")[2] for name, _, _ in model.others if model.tied and _adapted(name, targets)]
    if shared and ALL_LINEAR[0] not in targets:
        raise InputError(f"lora.targets names '{shared[0]}', which shares its weights with another layer: leave it out")
    if model.adapters(1, targets):
        return
    there = sorted({name.rpartition(".")[2] for name, _, _ in model.linears})
    raise InputError(
        f"lora.targets do not fit the model (no layer is named {' or '.join(targets)}): choose among {', '.join(there)}"
    )


class Unmeasured(InputError):
    """A model of a kind whose memory is not known; it may train all the same."""


def measured(model: nn.Module) -> Footprint:
    """The numbers of a model that is there; adapters are not counted. Unmeasured for a kind that is not known."""
    inner = unwrapped(model)
    try:
        return _measured(inner)
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError):
        raise Unmeasured(
            f"the memory of {type(inner).__name__} cannot be estimated, since its configuration does not say what is "
            "counted (heads, widths): train it without --dry-run"
        ) from None


def _measured(inner: Any) -> Footprint:
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
    linears = tuple(_linears(inner, head))
    return Footprint(
        kind=type(inner).__name__,
        parameters=total,
        layer=max(each, default=0),
        root=total - sum(each),
        linears=linears,
        others=tuple(_tables(inner, head)),
        layers=len(stacks),
        hidden=hidden,
        query=heads * size,
        key=kv * size,
        heads=heads,
        mlp=mlp(values, hidden, linears, list(own)),
        vocabulary=0 if head is None else int(head.weight.shape[0]),
        tied=head is not None and head.weight is inner.get_input_embeddings().weight,
        head_norms=any("q_norm" in name for name in own),
        context=context_length(inner),
    )


def _linears(model: nn.Module, head: nn.Module | None) -> Iterator[Linear]:
    """Its linear layers but the head, under the names that they have without adapters."""
    below = head._modules.get("base_layer") if head is not None else None
    for name, module in model.named_modules():
        if module is head or module is below or "lora_" in name:
            continue
        if isinstance(module, nn.Linear):
            yield name.removesuffix(".base_layer"), module.in_features, module.out_features
        elif isinstance(module, Conv1D):
            yield name.removesuffix(".base_layer"), module.nx, module.nf


def _tables(model: nn.Module, head: nn.Module | None) -> Iterator[Linear]:
    """The head and the embeddings, which an adapter may be put at by name."""
    for name, module in model.named_modules():
        if module is head or isinstance(module, nn.Embedding):
            weight: Any = module.weight  # no parameter where an adapter stands
            yield name.removesuffix(".base_layer"), int(weight.shape[1]), int(weight.shape[0])


def place(spec: str, task: str | None) -> str:
    """What transformers reads of a model: the folder of 'embedded', a folder (of an adapter: its base), or a hub id."""
    return _source(spec, adapter_of(spec), task)


def _source(spec: str, adapter: AdapterFolder | None, task: str | None) -> str:
    return str(configured(spec if adapter is None else adapter.base, task))


def adapter_rank(spec: str) -> int:
    """The rank of the adapter that a model's name stands for, in a folder or on the hub; 0 where it is none."""
    return _shape(adapter_of(spec))[0]


def _shape(adapter: AdapterFolder | None) -> tuple[int, tuple[str, ...]]:
    """(rank, targets) of an adapter; of targets that are given as a pattern, all linear layers."""
    if adapter is None:
        return 0, ALL_LINEAR
    said = said_by(adapter)
    targets = said.get("target_modules")
    return said["r"], tuple(targets) if isinstance(targets, list) else ALL_LINEAR


def _named(config: Any, name: str) -> Any:
    """A number that older architectures keep under a name of their own (GPT-2's n_embd)."""
    return config.to_dict().get(config.attribute_map.get(name, name))


def _layers(model: nn.Module) -> list[nn.Module]:
    """The longest list of modules of one class: the decoder layers."""
    lists = [list(m) for m in model.modules() if isinstance(m, nn.ModuleList)]
    return max(lists, key=len, default=[])
