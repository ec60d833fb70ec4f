"""The weights of a model folder, read one tensor at a time, and which of them can be compared with another model's."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rekindle.errors import InputError
from rekindle.tokens.reading import bytes_of, object_of

ADAPTER = "adapter_config.json"
BUFFER = re.compile(r"inv_freq$|\.masked_bias$|\.attn\.bias$|\.attention\.bias$|position_ids$")
"""Constants that old checkpoints hold beside their parameters."""
HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output)\.weight$")
INPUT = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings)\.weight$")


class Weights:
    """The safetensors files of a model folder, opened but not loaded; use it as a context. `names`: all tensors.

    InputError for a folder without such files, with an adapter (LoRA) instead of a whole model, or with a damaged file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open = ExitStack()
        self._file: dict[str, Any] = {}
        if not folder.is_dir():
            raise InputError(f"'{folder}' is no folder: give a model folder with safetensors, or a run folder")
        if (folder / ADAPTER).is_file():
            raise InputError(
                f"{folder} holds an adapter (LoRA), not a model: merge it first (merge_and_unload of peft, then "
                "save_pretrained); the update of a merged LoRA is dense and of low rank"
            )
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise InputError(f"no *.safetensors in {folder}: save the model with save_pretrained and give that folder")
        for file in files:
            self._add(file)
        self.names = tuple(sorted(self._file, key=_by_number))

    def _add(self, file: Path) -> None:
        bytes_of(file, "save the model again", read=False)
        try:
            handle: Any = self._open.enter_context(safe_open(file, framework="pt"))
        except (SafetensorError, OSError) as error:
            self._open.close()
            raise InputError(f"{file} is no readable safetensors file ({error}): save the model again") from error
        self._file |= dict.fromkeys(handle.keys(), handle)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return tuple(self._file[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The stored dtype of a tensor ("F32", "BF16", "I64"), without reading it."""
        return str(self._file[name].get_slice(name).get_dtype())

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        return self._file[name].get_tensor(name)

    @property
    def ties_head(self) -> bool:
        """Whether config.json says that the head is the input embedding."""
        config = self.folder / "config.json"
        held: Mapping[str, Any] = object_of(config, "save the model again") if config.is_file() else {}
        return held.get("tie_word_embeddings") is True

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def _by_number(name: str) -> list[tuple[int, int, str]]:
    """Sorts layer 2 before layer 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split(".")]


def skipped(models: Sequence[Weights]) -> dict[str, str]:
    """Tensor -> why it cannot be compared: not in every model, of another shape, empty, or no parameter."""
    found: dict[str, str] = {}
    held = [set(model.names) for model in models]
    for name in sorted(set[str]().union(*held), key=_by_number):
        lacking = [model for model, names in zip(models, held, strict=True) if name not in names]
        if lacking:
            found[name] = f"not in {lacking[0].folder}"
            continue
        shapes = [model.shape(name) for model in models]
        kinds = [model.dtype(name) for model in models]
        if len(set(shapes)) > 1:
            found[name] = "shapes differ: " + " and ".join("x".join(map(str, shape)) for shape in shapes)
        elif 0 in shapes[0]:
            found[name] = "empty"
        elif BUFFER.search(name) or any(not kind.startswith(("F", "BF")) for kind in kinds):
            found[name] = f"no parameter ({kinds[0]})"
    return found


def tied(name: str, names: Collection[str], models: Sequence[Weights], tensors: Sequence[Tensor]) -> str | None:
    """Why the head `name` is the input embedding again: by config.json, or equal to it in every model; None if not."""
    source = next((n for n in names if INPUT.search(n)), None)
    if source is None or not HEAD.search(name) or models[0].shape(source) != tuple(tensors[0].shape):
        return None
    if all(model.ties_head for model in models):
        return f"tied to {source}, which is counted"
    same = all(torch.equal(model.read(source), tensor) for model, tensor in zip(models, tensors, strict=True))
    return f"equal to {source} in every model, which is counted" if same else None
