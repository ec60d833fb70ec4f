"""Models and tokenizers from the package, a local folder or the hub, checked before anything is trained on them.

Loading runs no foreign code: safetensors only, `trust_remote_code=False`. It leaves the random state as it was.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from rekindle.errors import InputError, unknown
from rekindle.tokens.adapters import AdapterFolder, adapter_folder, with_adapter
from rekindle.tokens.chat import Encode
from rekindle.tokens.encoder import EMBEDDED_TASKS, has_tokenizer, load_encode, tokenizer_place
from rekindle.tokens.fetching import guarded, quiet
from rekindle.tokens.heads import refuse_dropout
from rekindle.tokens.model_files import check_config, check_finite, check_weights
from rekindle.tokens.quantized import Quantize, quantization

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
    "float64": torch.float64,
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True)
class Loaded:
    """A causal LM (evaluation mode, on its device), its tokenizer and its prompt encoder.

    adapter: whether the model came with an adapter, which it is wrapped in.
    """

    model: Any
    tokenizer: Any
    encode: Encode
    adapter: bool = False


def load_model(
    spec: str,
    *,
    task_name: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    system_prompt: str | None = None,
    chat_template: str | None = None,
    thinking: bool | None = None,
    quantize: Quantize = "none",
) -> Loaded:
    """Load 'embedded' (the packaged model of `task_name`), a local folder or a hub id; InputError with the remedy.

    A folder or id of a LoRA adapter gives its base with the adapter in it. chat_template: a file with the template to
    use instead of the tokenizer's. thinking: what the template is told. quantize: the base in 8 or 4 bits.
    """
    kind, place = _dtype(dtype), resolve_device(device)
    quantization(quantize, place, kind)  # before anything is fetched, and no fault of an adapter's base
    with quiet(), torch.random.fork_rng(devices=[]):
        adapter = adapter_of(spec)
        if adapter is None:
            source = _source(spec, task_name, whole=True)
            model = _model(spec, source, kind, place, quantize)
        else:
            source, model = _base(adapter, kind, place, quantize)
    encode = load_encode(
        spec,
        tokenizer_place(adapter, source),
        task_name=task_name,
        system_prompt=system_prompt,
        chat_template=chat_template,
        thinking=thinking,
    )
    tokenizer = encode.tokenizer
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise InputError(
            f"model '{spec}': the tokenizer (tokenizer.json, tokenizer_config.json) has more tokens ({len(tokenizer)}) "
            "than the model: match them"
        )
    if not eos_ids(model, tokenizer):
        raise InputError(f"model '{spec}': no end-of-text token: set 'eos_token' in tokenizer_config.json")
    return Loaded(model, tokenizer, encode, adapter is not None)


def eos_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """All ids that end a text, sorted: those of the generation config, the model config and the tokenizer."""
    found: set[int] = set()
    given = [model.config.get_text_config().eos_token_id, tokenizer.eos_token_id]
    if model.generation_config is not None:
        given.append(model.generation_config.eos_token_id)
    for value in given:
        found |= set(value if isinstance(value, list | tuple) else [] if value is None else [value])
    return tuple(sorted(found))


def context_length(model: Any) -> int | None:
    """The most positions that the model's configuration allows, None where it names no limit."""
    config = model.config.get_text_config()
    # GPT-2 and others keep the number under a name of their own, which `attribute_map` translates.
    name = config.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    return config.to_dict().get(name)


def resolve_device(device: str | torch.device) -> torch.device:
    """The torch device named `device` ("auto": a GPU where there is one); InputError where it is not usable here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise unknown("device", str(device), ["auto", "cpu", "cuda"]) from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device '{device}' is not there (CUDA devices: {torch.cuda.device_count()}): use 'auto'")
    if place.type == "mps":
        raise InputError(f"device '{device}' has no float64, in which tokens are drawn: use 'cpu' or 'auto'")
    if place.type not in ("cpu", "cuda"):
        raise unknown("device", str(device), ["auto", "cpu", "cuda"])
    return place


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    return DTYPES[dtype]


def adapter_of(spec: str) -> AdapterFolder | None:
    """The adapter that a model's name stands for, a folder or a hub id; None where it is a whole model."""
    there = Path(spec).expanduser().exists() or _HUB_ID.fullmatch(spec)
    with quiet():
        return guarded(spec, lambda: adapter_folder(spec)) if there and spec != "embedded" else None


def configured(spec: str, task_name: str | None) -> Path | str:
    """Where the config.json of a whole model is: an absolute folder, or a hub id. InputError where there is none."""
    if spec == "embedded":
        name = task_name if task_name in EMBEDDED_TASKS else "reduce"
        folder = Path(str(importlib.resources.files("rekindle"))) / "assets" / name
        if not folder.is_dir():
            raise InputError(f"no embedded model for '{name}': train one by `rekindle warm --task {name} --out DIR`")
        return folder
    folder = Path(spec).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(f"model '{spec}': no config.json in the folder: name a folder written by save_pretrained")
    if folder.is_dir():
        check_config(spec, folder)
        return folder.absolute()
    if folder.exists():
        raise InputError(f"model '{spec}': a file, not a folder: name the folder that holds config.json")
    if not _HUB_ID.fullmatch(spec):
        raise InputError(f"model '{spec}': no such folder: give a model folder, a hub id (owner/name) or 'embedded'")
    return spec


def _source(spec: str, task_name: str | None, whole: bool) -> str:
    """What transformers loads: an absolute folder, or a hub id. whole: the tokenizer must lie there too."""
    found = configured(spec, task_name)
    return str(_checked_folder(spec, found, whole)) if isinstance(found, Path) else found


def _checked_folder(spec: str, folder: Path, whole: bool) -> Path:
    if whole and not has_tokenizer(folder):
        raise InputError(
            f"model '{spec}': no tokenizer in the folder (tokenizer.json): save it there by tokenizer.save_pretrained"
        )
    if any(folder.glob("*.safetensors")):
        check_weights(spec, folder)
        return folder
    pickled = sorted(path.name for end in ("bin", "pt", "pth") for path in folder.glob(f"*.{end}"))
    if pickled:
        found = f"only pickled weights ({pickled[0]}), which can run code"
        raise InputError(f"model '{spec}': {found}: convert them to model.safetensors (save_pretrained does)")
    raise InputError(
        f"model '{spec}': a configuration, but no weights in the folder: copy or download model.safetensors (all its "
        "parts) into it"
    )


def _base(adapter: AdapterFolder, dtype: torch.dtype, place: torch.device, quantize: Quantize) -> tuple[str, Any]:
    """Where the base is, and the base with the adapter in it."""
    try:
        source = _source(adapter.base, None, whole=not has_tokenizer(adapter.folder))
        model = _model(adapter.base, source, dtype, place, quantize)
    except InputError as error:
        raise InputError(f"adapter '{adapter.spec}' lacks its base: {error}") from None
    return source, guarded(adapter.spec, lambda: with_adapter(model, adapter), "adapter_config.json")


def _check_dropout(spec: str, model: Any) -> None:
    try:
        refuse_dropout(model)
    except InputError as error:
        raise InputError(f"model '{spec}': {error} in its config.json") from None


def _model(spec: str, source: str, dtype: torch.dtype, place: torch.device, quantize: Quantize) -> Any:
    narrow = quantization(quantize, place, dtype)
    model, report = guarded(
        spec,
        lambda: AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported, and refused below by name
            quantization_config=narrow,
            device_map=None if narrow is None else {"": place},
        ),
        "config.json against the weights",
    )
    _check_fit(spec, report)
    check_finite(model.named_parameters(), f"model '{spec}'")
    _check_dropout(spec, model)
    return model.eval() if narrow is not None else model.eval().to(place)


def _check_fit(spec: str, report: Mapping[str, Any]) -> None:
    """InputError where the weights are not those that config.json asks for."""
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"model '{spec}': the weights lack {len(missing)} tensors that config.json asks for ({missing[0]}, "
            "...), which would be random: save the whole causal LM again"
        )
    other = sorted(report["mismatched_keys"])
    if other:
        name, saved, wanted = other[0]
        raise InputError(
            f"model '{spec}': the weights '{name}' have the shape {list(saved)}, and config.json asks for "
            f"{list(wanted)}: restore the config.json that was saved with them"
        )
