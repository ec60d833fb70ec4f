"""Adapter folders (LoRA, as PEFT saves them): their base model, and what of them can be loaded and trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from rekindle.errors import InputError
from rekindle.tokens.lora import CONFIG, WEIGHTS, load_adapter_state, need_peft, wrap
from rekindle.tokens.model_files import check_finite, tensors_in
from rekindle.tokens.reading import object_of

_WANTED = ("adapter_*", "*.json", "*.jinja", "tokenizer*", "*.model", "vocab*", "merges*")
# Options of PEFT that change more than the products of linear layers, or the base itself, so that neither switching
# the adapter off nor merging it by a sum would be right: option -> the values that say it is not used.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_dora": (False,),
    "lora_bias": (False,),
    "use_qalora": (False,),
    "init_lora_weights": (True, False, "gaussian"),
}
_UNMERGEABLE = ("alora_invocation_tokens", "arrow_config")  # which rows or tokens they act on depends on the input
_EMPTY = ("modules_to_save", "layer_replication", "trainable_token_indices", "target_parameters", "megatron_config")
_ABSENT = ("use_bdlora", "kasa_config", "velora_config", "monteclora_config", *_UNMERGEABLE)
"""Of these, PEFT takes an object without entries for a setting, too."""
FREE = (
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out"),
    *("use_rslora", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "runtime_config"),
    *("megatron_core", "qalora_group_size", "ensure_weight_tying"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
)
"""Options of PEFT that may have any value. The last four act by `init_lora_weights` alone."""
MOST_RANK = 2**16
KNOWN = frozenset((*_PLAIN, *_EMPTY, *_ABSENT, *FREE))


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter on disk. base: the folder or hub id of the model that it was trained on."""

    spec: str
    folder: Path
    base: str


def adapter_folder(spec: str) -> AdapterFolder | None:
    """The adapter in the folder `spec`, or in the hub's repository of that id; None where it is a whole model."""
    folder = Path(spec).expanduser()
    if not folder.exists():
        if find_adapter_config_file(spec) is None:
            return None
        folder = Path(snapshot_download(spec, allow_patterns=list(_WANTED), ignore_patterns=["*.bin"]))
    if not (folder / CONFIG).is_file():
        return None
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        found = "only a pickled adapter_model.bin, which can run code" if pickled else f"no {WEIGHTS} in the folder"
        raise InputError(f"adapter '{spec}': {found}: save it again with safe_serialization=True")
    base = _read(spec, folder).get("base_model_name_or_path")
    if not base:
        raise InputError(f"adapter '{spec}': no base_model_name_or_path in {CONFIG}: write its base model there")
    return AdapterFolder(spec, folder, str(base))


def said_by(adapter: AdapterFolder) -> dict[str, Any]:
    """The adapter's configuration; InputError where its rank is no rank."""
    said = _read(adapter.spec, adapter.folder)
    rank = said.get("r")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= MOST_RANK:
        raise InputError(
            f"adapter '{adapter.spec}', {CONFIG}: 'r' is {rank!r:.40}: write the rank of its weights, a whole number "
            f"from 1 to {MOST_RANK}"
        )
    alpha = said.get("lora_alpha", rank)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise InputError(f"adapter '{adapter.spec}', {CONFIG}: 'lora_alpha' is {alpha!r:.40}: write a number")
    return said


def _read(spec: str, folder: Path) -> dict[str, Any]:
    return object_of(folder / CONFIG, "save the adapter again", f"adapter '{spec}', {CONFIG}")


def with_adapter(model: PreTrainedModel, adapter: AdapterFolder) -> Any:
    """`model` frozen, with the adapter in it, which can train. Its dropout is off: it only ever acted in training."""
    _refuse_unusual(adapter.spec, said_by(adapter))
    config = need_peft().LoraConfig.from_pretrained(str(adapter.folder))
    config.inference_mode, config.lora_dropout, config.base_model_name_or_path = False, 0.0, model.name_or_path
    wrapped = wrap(model, config, seed=0)
    tensors_in(adapter.spec, adapter.folder / WEIGHTS)
    state, where = load_file(adapter.folder / WEIGHTS), f"adapter '{adapter.spec}', {WEIGHTS}"
    check_finite(state.items(), where)
    load_adapter_state(wrapped, state, where)
    return wrapped


def _refuse_unusual(spec: str, said: Mapping[str, Any]) -> None:
    remedy = "merge it into its base (merge_and_unload of peft, then save_pretrained) and give that folder"
    if said.get("peft_type") != "LORA":
        raise InputError(f"adapter '{spec}' is of the kind {said.get('peft_type')}, not LORA: {remedy}")
    usual = {name: value for name, (value, *_) in _PLAIN.items()}
    odd = [name for name, fine in _PLAIN.items() if said.get(name, usual[name]) not in fine]
    odd += [name for name in _EMPTY if said.get(name)]
    odd += [name for name in _ABSENT if said.get(name) not in (None, False, [])]
    if odd and odd[0] in _UNMERGEABLE:
        remedy = "its weights cannot be merged either: give an adapter that was trained without it, or the base"
    if odd:
        raise InputError(f"adapter '{spec}' uses {odd[0]}={said[odd[0]]}, which is more than plain LoRA: {remedy}")
