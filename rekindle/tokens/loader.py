"""Models and tokenizers from the package, a local folder or the hub, checked before anything is trained on them.

Loading runs no foreign code: safetensors only, `trust_remote_code=False`. It leaves the random state as it was.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from rekindle.errors import InputError, unknown
from rekindle.tokens.heads import refuse_dropout
from rekindle.tokens.rollouts import Example

EMBEDDED_TASKS = ("reduce", "digit_sum")
DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
    "float64": torch.float64,
}
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"),
    *("tekken.json", "tiktoken.model"),
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True)
class Encode:
    """Token ids of an example's prompt: by the chat template where `chat` is set or the prompt is a list of messages.

    system_prompt: put before the messages unless they hold one; used with chat templates only.
    """

    tokenizer: Any
    chat: bool
    system_prompt: str | None = None

    def __call__(self, example: Example) -> list[int]:
        """The ids that the model is given before it samples; InputError naming the example where there are none."""
        messages = example.meta.get("messages")
        if self.chat or messages is not None:
            ids = self._template(example, messages or [{"role": "user", "content": example.prompt}])
        else:
            ids = list(self.tokenizer(example.prompt).input_ids)
        if not ids:
            raise InputError(f"prompt '{example.id}': the tokenizer makes no tokens of it: change or drop the row")
        return ids

    def _template(self, example: Example, messages: list[dict[str, str]]) -> list[int]:
        if self.tokenizer.chat_template is None:
            raise InputError(
                f"prompt '{example.id}' is a list of messages, but the tokenizer has no chat template: "
                "write the prompt as a text or choose a chat model"
            )
        if self.system_prompt is not None and all(message["role"] != "system" for message in messages):
            messages = [{"role": "system", "content": self.system_prompt}, *messages]
        try:
            return list(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
        except Exception as error:  # a template is a program of the model's author and may raise anything
            raise InputError(f"prompt '{example.id}': the chat template refuses it ({_line(error)})") from None


@dataclass(frozen=True)
class Loaded:
    """A causal LM (evaluation mode, on its device), its tokenizer and its prompt encoder."""

    model: Any
    tokenizer: Any
    encode: Encode


def load_model(
    spec: str,
    *,
    task_name: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    system_prompt: str | None = None,
) -> Loaded:
    """Load 'embedded' (the packaged model of `task_name`), a local folder or a hub id; InputError with the remedy."""
    kind, place = _dtype(dtype), resolve_device(device)
    source = _source(spec, task_name)
    with quiet(), torch.random.fork_rng(devices=[]):
        tokenizer = _guarded(spec, lambda: AutoTokenizer.from_pretrained(source, trust_remote_code=False))
        model = _model(spec, source, kind)
    _check_dropout(spec, model)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise InputError(f"model '{spec}': the tokenizer has more tokens ({len(tokenizer)}) than the model: match them")
    if not eos_ids(model, tokenizer):
        raise InputError(f"model '{spec}': no end-of-text token: set 'eos_token' in tokenizer_config.json")
    chat = tokenizer.chat_template is not None and task_name not in EMBEDDED_TASKS
    return Loaded(model.to(place), tokenizer, Encode(tokenizer, chat, system_prompt))


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


def _source(spec: str, task_name: str | None) -> str:
    if spec == "embedded":
        name = task_name if task_name in EMBEDDED_TASKS else "reduce"
        folder = Path(str(importlib.resources.files("rekindle"))) / "assets" / name
        if not folder.is_dir():
            raise InputError(f"no embedded model for '{name}': train one by `rekindle warm --task {name} --out DIR`")
        return str(_checked_folder(spec, folder))
    folder = Path(spec).expanduser()
    if folder.exists():
        return str(_checked_folder(spec, folder))
    if not _HUB_ID.fullmatch(spec):
        raise InputError(f"model '{spec}': no such folder: give a model folder, a hub id (owner/name) or 'embedded'")
    return spec


def _checked_folder(spec: str, folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(f"model '{spec}': a file, not a folder: name the folder that holds config.json")
    if not (folder / "config.json").is_file():
        raise InputError(f"model '{spec}': no config.json in the folder: name a folder written by save_pretrained")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise InputError(f"model '{spec}': no tokenizer in the folder: save it there by tokenizer.save_pretrained")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for end in ("bin", "pt", "pth") for path in folder.glob(f"*.{end}"))
        found = f"only pickled weights ({pickled[0]}), which can run code" if pickled else "no weights in the folder"
        raise InputError(f"model '{spec}': {found}: convert them to model.safetensors (save_pretrained does)")
    return folder


def _check_dropout(spec: str, model: Any) -> None:
    try:
        refuse_dropout(model)
    except InputError as error:
        raise InputError(f"model '{spec}': {error} in its config.json") from None


def _model(spec: str, source: str, dtype: torch.dtype) -> Any:
    model, report = _guarded(
        spec,
        lambda: AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        ),
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"model '{spec}': the weights lack {len(missing)} tensors ({missing[0]}, ...), which would be random: "
            "save the whole causal LM again"
        )
    return model.eval()


def _guarded(spec: str, load: Any) -> Any:
    try:
        return load()
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError) as error:
        known = "" if spec == "embedded" or Path(spec).expanduser().exists() else " is no folder here and, as a hub id,"
        raise InputError(f"model '{spec}'{known} cannot be loaded ({_line(error)}): check its name and files") from None


def _line(error: Exception) -> str:
    lines = [line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars, reports and retries off the terminal; what they warn of is checked or raised here."""
    verbosity, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hub = hub_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub)
        if bar:
            hf_logging.enable_progress_bar()
