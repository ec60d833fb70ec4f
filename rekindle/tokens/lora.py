"""Low-rank adapters (LoRA, arXiv 2106.09685) by PEFT: made, saved, switched off, and merged into plain weights.

Only the adapter trains. The weights that a run began with stay reachable in the same model (`StartWeights`), so that a
reference pass needs no second copy.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rekindle.errors import InputError
from rekindle.tokens.heads import Wrapper, unwrapped

TRAINED, START = "default", "start"
"""PEFT's names of the adapter that trains, and of the one that a run began with."""
ALL_LINEAR = ("all-linear",)
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def need_peft() -> Any:
    """The package `peft`; InputError that names the extra where it is not installed."""
    try:
        import peft
    except ImportError:
        raise InputError("adapters need PEFT, which is not installed: pip install 'rekindle[train]'") from None
    return peft


def adapt(model: PreTrainedModel, rank: int, alpha: float | None, targets: Sequence[str], seed: int) -> nn.Module:
    """`model` frozen, with a new adapter in its `targets` that says nothing yet and is all that trains.

    alpha: None = twice the rank. targets: names of modules, or "all-linear" alone, which leaves the head out. The first
    weights depend on `seed` alone. InputError where a target does not exist or is a tied head.
    """
    given = list(targets)
    refuse_mixed(given)
    config = need_peft().LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=0.0,
        target_modules=ALL_LINEAR[0] if tuple(given) == ALL_LINEAR else given,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.name_or_path,
    )
    return wrap(model, config, seed)


def refuse_mixed(targets: Sequence[str]) -> None:
    """InputError where all-linear stands beside other targets: PEFT takes it as a word of its own only."""
    if ALL_LINEAR[0] in targets and len(targets) > 1:
        others = ", ".join(name for name in targets if name != ALL_LINEAR[0]) or "it once more"
        raise InputError(
            f"lora.targets holds all-linear, which stands for every linear layer but the head, and {others}: set it "
            "to all-linear alone, or name each module"
        )


def wrap(model: PreTrainedModel, config: Any, seed: int) -> nn.Module:
    """`model` with the adapter that PEFT's `config` describes; the global random state is left as it was."""
    _refuse_tied(model, config.target_modules)
    linear = sorted({path.rpartition(".")[2] for path, m in model.named_modules() if isinstance(m, nn.Linear)})
    with _undisturbed():
        torch.default_generator.manual_seed(seed)
        try:
            return need_peft().PeftModelForCausalLM(model, config, adapter_name=TRAINED)
        except ValueError as error:
            text = str(error).partition(". ")[0].rstrip(".")
            raise InputError(f"lora.targets do not fit the model ({text}): choose among {', '.join(linear)}") from None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keeps the random state, and off the terminal what PEFT says of layers that mixtures may or may not have."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _refuse_tied(model: PreTrainedModel, targets: Any) -> None:
    """An adapter in one of two tied matrices could not be merged: the merged model has one matrix for both."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if isinstance(targets, str) or head is None or head.weight is not table.weight:
        return
    for path, module in model.named_modules():
        if module in (head, table) and any(path == t or path.endswith(f".{t}") for t in targets):
            raise InputError(f"lora.targets names '{path}', which shares its weights with another layer: leave it out")


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """Path in the transformers model -> PEFT's layer there; empty for a model without adapter."""
    if not isinstance(model, Wrapper):
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {path: layer for path, layer in unwrapped(model).named_modules() if isinstance(layer, BaseTunerLayer)}


def keep_start(model: nn.Module, name: str = START) -> StartWeights:
    """What the model says now, to be read later: a small frozen copy of its adapter, beside the one that trains.

    name: of the copy; one that is there already gets the weights of now.
    """
    wrapped: Any = model
    if name not in wrapped.peft_config:
        with _undisturbed():
            wrapped.add_adapter(name, deepcopy(wrapped.peft_config[TRAINED]))
    load_adapter_state(model, adapter_state(model), "the adapter", name)
    wrapped.set_adapter(TRAINED)
    return StartWeights(model, name)


@dataclass(frozen=True, eq=False)
class StartWeights:
    """The weights that a run with an adapter began with: its model under `adapter`, None for no adapter at all."""

    model: nn.Module
    adapter: str | None = None

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        """The model has these weights while inside; to be used without gradients."""
        layers = list(adapted_layers(self.model).values())
        before = [layer.active_adapters for layer in layers]
        try:
            for layer in layers:
                layer.enable_adapters(False) if self.adapter is None else layer.set_adapter([self.adapter])
            yield self.model
        finally:
            for layer, names in zip(layers, before, strict=True):
                layer.enable_adapters(True) if self.adapter is None else layer.set_adapter(names)


Weights = nn.Module | StartWeights
"""A model, or the start weights inside one."""


@contextmanager
def at(weights: Weights) -> Iterator[nn.Module]:
    """The model that has `weights` while inside."""
    if isinstance(weights, StartWeights):
        with weights.active() as model:
            yield model
    else:
        yield weights


def adapter_state(model: nn.Module, adapter: str = TRAINED) -> dict[str, Tensor]:
    """The adapter's tensors under the names that PEFT's files have."""
    found = need_peft().get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    return {name: value.detach().contiguous() for name, value in found.items()}


def load_adapter_state(model: nn.Module, state: Mapping[str, Tensor], where: str, adapter: str = TRAINED) -> None:
    """The tensors of `adapter_state` into the model, bit for bit; InputError naming `where` for those of another."""
    own = {(name, tuple(value.shape)) for name, value in adapter_state(model, adapter).items()}
    other = own ^ {(name, tuple(value.shape)) for name, value in state.items()}
    if other:
        raise InputError(
            f"{where} has other tensors than this adapter ('{min(other)[0]}'): it is not one of this model, give one "
            "that was saved from it"
        )
    need_peft().set_peft_model_state_dict(model, dict(state), adapter_name=adapter)


def save_adapter(model: nn.Module, folder: Path) -> None:
    """The adapter as a folder that `PeftModel.from_pretrained` loads."""
    wrapped: Any = model
    config = deepcopy(wrapped.peft_config[TRAINED])
    config.inference_mode = True
    config.save_pretrained(folder)
    save_file(adapter_state(model), folder / WEIGHTS, {"format": "pt"})


def save_merged(model: nn.Module, folder: Path, dtype: torch.dtype | None = None) -> None:
    """`model` with its adapter merged in, as a plain transformers folder; the model is not changed.

    dtype: that the sums are stored in (None: as they are).
    """
    inner = unwrapped(model)
    config = deepcopy(inner.config)
    vars(config).pop("quantization_config", None)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        plain = AutoModelForCausalLM.from_config(config, dtype=inner.dtype)
    plain.load_state_dict(plain_weights(model), assign=True)
    plain.to(dtype or inner.dtype).tie_weights()
    plain.generation_config = inner.generation_config
    plain.save_pretrained(folder)


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights of a causal LM under the names of the plain transformers model, detached; LoRA is merged in.

    The model is not changed. Weights without adapter are the model's own tensors, no copies; a base in 4 or 8 bits
    comes out whole.
    """
    inner, layers = unwrapped(model), adapted_layers(model)
    modules = dict(inner.named_modules())
    narrow = {path for path, module in modules.items() if _quantized(module)}
    found: dict[str, Tensor] = {}
    for name, value in inner.state_dict().items():
        owner = name.rpartition(".")[0]
        while owner and owner not in layers and owner not in narrow:
            owner = owner.rpartition(".")[0]
        rest = name.removeprefix(f"{owner}.") if owner else name
        if (owner in layers and not rest.startswith("base_layer.")) or (owner in narrow and "." in rest):
            continue  # PEFT's own, and what bitsandbytes keeps beside a weight
        found[_plain(name)] = value.detach()
    found |= {f"{_plain(path)}.weight": _dequantized(modules[path]) for path in narrow}
    for path, layer in layers.items():
        name = (
            f"{_plain(path)}.{vars(layer).get('parameter_name', 'weight')}"  # one of several tensors where it is named
        )
        found[name] = _merged(layer, found[name])
    return found


def _plain(path: str) -> str:
    """A path of the model with adapters as the plain model has it."""
    return ".".join(part for part in path.split(".") if part != "base_layer")


def _merged(layer: Any, weight: Tensor) -> Tensor:
    total = weight
    for adapter in layer.active_adapters:
        total = total + layer.get_delta_weight(adapter).detach().to(weight.dtype)
    return total


def _quantized(module: nn.Module) -> bool:
    return type(module).__module__.startswith("bitsandbytes")


def _dequantized(module: nn.Module) -> Tensor:
    from peft.utils.integrations import dequantize_module_weight

    return dequantize_module_weight(module).detach()
