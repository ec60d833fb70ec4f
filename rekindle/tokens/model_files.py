"""The files of a model's folder, looked at before transformers reads them, so that what is damaged is named."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rekindle.errors import InputError
from rekindle.tokens.reading import bytes_of, object_of

CONFIG, GENERATION = "config.json", "generation_config.json"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
SIZES = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"),
    *("max_position_embeddings", "n_embd", "n_head", "n_positions", "n_inner", "d_model"),
)
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
WIDTHS = ("hidden_size", "n_embd", "d_model")
NUMBERS = 4
"""Numbers of one matrix that a byte of the files may stand for: two in 4 bits, and twice that to be safe."""
IDS = ("eos_token_id", "bos_token_id", "pad_token_id")
MOST, MOST_LAYERS = 2**28, 10_000
"""Sizes and layers far above those of every model: a slip, which would fill the memory before it is noticed."""
MOST_TOKENS = 2**24
"""Far more than the largest vocabularies (2**18): readers make a table as long as the largest id."""
LONGEST = "model_max_length"
SAVE_TOKENIZER = "save the tokenizer again, or copy the file again"
SAVE = "save the model again, or copy the file again"


def check_config(spec: str, folder: Path) -> None:
    """InputError where config.json or generation_config.json is damaged, naming the key where that is a size."""
    said = object_of(folder / CONFIG, SAVE, f"model '{spec}', {CONFIG}")
    for values in (said, said.get("text_config")):
        if isinstance(values, Mapping):
            _check_sizes(spec, values)
            _check_ids(f"model '{spec}', {CONFIG}", values)
    if os.path.lexists(folder / GENERATION):
        name = f"model '{spec}', {GENERATION}"
        _check_ids(name, object_of(folder / GENERATION, SAVE, name))


def _check_sizes(spec: str, said: Mapping[str, Any]) -> None:
    for name in (*SIZES, *LAYERS):
        most = MOST_LAYERS if name in LAYERS else MOST
        given = said.get(name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and (not _whole(value) or not 1 <= value <= most):
                raise InputError(
                    f"model '{spec}', {CONFIG}: '{name}' is {brief(value)}: write a whole number from 1 to {most}, as "
                    "the weights have it"
                )


def _check_ids(where: str, said: Mapping[str, Any]) -> None:
    for name in IDS:
        given = said.get(name)
        listed = isinstance(given, list) and name == IDS[0]
        if given is not None and not all(_whole(value) for value in (given if listed else [given])):
            remedy = "write the id of a token, a list of them, or null" if name == IDS[0] else "write an id, or null"
            raise InputError(f"{where}: '{name}' is {brief(given)}: {remedy}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def brief(value: object) -> str:
    """A value as a sentence shows it: cut where it is long."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def check_tokenizer(spec: str, folder: Path) -> None:
    """InputError where one of the tokenizer's JSON files holds no object."""
    for name in TOKENIZER:
        if os.path.lexists(folder / name):
            where = f"model '{spec}', {name}"
            said = object_of(folder / name, SAVE_TOKENIZER, where)
            _check_numbers(where, said)


def _check_numbers(where: str, said: Mapping[str, Any]) -> None:
    longest = said.get(LONGEST)
    if longest is not None and not isinstance(longest, int | float):
        raise InputError(f"{where}: '{LONGEST}' is {brief(longest)}: write a number, or leave it out")
    for token, number in _numbered(said):
        if not _whole(number) or not 0 <= number < MOST_TOKENS:
            raise InputError(
                f"{where}: the token {brief(token)} has the id {brief(number)}, none from 0 to {MOST_TOKENS - 1}: "
                f"{SAVE_TOKENIZER}"
            )


def _numbered(said: Mapping[str, Any]) -> Iterator[tuple[object, Any]]:
    """The tokens of a tokenizer.json with their ids, where they have any."""
    model, added = said.get("model"), said.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocabulary, Mapping):
        yield from vocabulary.items()
    for token in added if isinstance(added, list) else []:
        if isinstance(token, Mapping) and "id" in token:
            yield token.get("content"), token["id"]


def check_weights(spec: str, folder: Path) -> None:
    """InputError where a file of weights is damaged or an index names what is not there. Reads headers only."""
    if os.path.lexists(folder / WHOLE):
        tensors_in(spec, folder / WHOLE)
    elif os.path.lexists(folder / INDEX):
        _check_index(spec, folder)
    else:
        there = min(file.name for file in folder.glob("*.safetensors"))
        raise InputError(f"model '{spec}': weights in {there}, and neither {WHOLE} nor {INDEX} beside them: {SAVE}")
    _check_room(spec, folder)


def _check_room(spec: str, folder: Path) -> None:
    """InputError where config.json asks for far more numbers than the files can hold: they would be filled first."""
    said = object_of(folder / CONFIG, SAVE)
    inner = said.get("text_config")
    values = {**said, **(inner if isinstance(inner, dict) else {})}
    held = sum(file.stat().st_size for file in folder.glob("*.safetensors") if file.is_file())
    width = next((name for name in WIDTHS if _whole(values.get(name))), None)
    for name in ("vocab_size", "intermediate_size", "n_inner", "head_dim"):
        if width is not None and _whole(values.get(name)) and values[name] * values[width] > NUMBERS * held:
            raise InputError(
                f"model '{spec}', {CONFIG}: '{name}' ({values[name]}) by '{width}' ({values[width]}) are more numbers "
                f"than the weights of {held} bytes hold: restore the {CONFIG} that was saved with them"
            )


def _check_index(spec: str, folder: Path) -> None:
    name = f"model '{spec}', {INDEX}"
    said = object_of(folder / INDEX, SAVE, name)
    where = said.get("weight_map")
    if not isinstance(said.get("metadata"), dict):
        raise InputError(f"{name}: 'metadata' is no object: {SAVE}")
    if not isinstance(where, dict) or not where:
        raise InputError(f"{name}: 'weight_map' is no object of tensors and their files: {SAVE}")
    held: dict[str, frozenset[str]] = {}
    for tensor, file in where.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise InputError(
                f"{name}: '{tensor}' lies in {str(file)[:80]!r}, which is no safetensors file of this folder: {SAVE}"
            )
        if not (folder / file).is_file():
            raise InputError(f"{name}: '{tensor}' lies in '{file}', and there is no such file: {SAVE}")
        if file not in held:
            held[file] = tensors_in(spec, folder / file)
        if tensor not in held[file]:
            raise InputError(f"{name}: '{tensor}' is not in {file}: {SAVE}")


def tensors_in(spec: str, file: Path) -> frozenset[str]:
    """The names of the tensors in a safetensors file of a model; InputError where it cannot be read."""
    name = f"model '{spec}', {file.name}"
    bytes_of(file, SAVE, name, read=False)
    try:
        with safe_open(file, framework="pt") as opened:
            return frozenset(opened.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{name}: no readable safetensors file ({error}): {SAVE}") from None


def check_finite(named: Iterable[tuple[str, Tensor]], where: str) -> None:
    """InputError naming the first tensor that holds a NaN or an infinity: nothing that is computed with it is a number.

    One sum a tensor; where that is not finite, which many large numbers can make too, its numbers are looked at.
    """
    for name, value in named:
        if not value.is_floating_point() or value.is_meta:
            continue
        if not torch.isfinite(value.sum(dtype=torch.float32)) and not torch.isfinite(value).all():
            count = int((~torch.isfinite(value)).sum())
            raise InputError(
                f"{where}: the weights '{name}' hold {count} NaN or infinite numbers of {value.numel()}: the training "
                "that wrote them broke, or the file is damaged; give an earlier checkpoint, or copy it again"
            )
