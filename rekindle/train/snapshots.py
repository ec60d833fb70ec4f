"""Frozen weights beside the policy's: made when a run starts, brought up to date by its method, saved with the run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rekindle.errors import InputError
from rekindle.tokens.lora import StartWeights, Weights, adapted_layers, adapter_state, keep_start, load_adapter_state

TEACHER = "teacher"


def frozen(model: nn.Module) -> nn.Module:
    """A copy of a model that never trains."""
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


def made(model: nn.Module, name: str) -> Weights:
    """What the model says now, as a pass of its own: a copy of the adapter where one trains, else of the model."""
    return keep_start(model, name) if adapted_layers(model) else frozen(model)


@torch.no_grad()
def renewed(old: Weights, model: nn.Module, name: str) -> Weights:
    """The pass `name` with the weights that `model` has now; `old` is changed in place where it is a whole model."""
    if isinstance(old, StartWeights):
        return keep_start(old.model, name if old.adapter is None else old.adapter)
    mine = dict(old.named_parameters())
    for key, parameter in model.named_parameters():
        mine[key].copy_(parameter)
    return old


def renew(references: dict[str, Weights], memory: dict[str, Any], model: nn.Module, name: str) -> None:
    """The pass `name` with the weights of `model`, to be saved with the run from here on."""
    references[name] = renewed(references[name], model, name)
    memory["snapshots"] = sorted({*memory.get("snapshots", []), name})


def tensors_of(weights: Weights) -> dict[str, Tensor]:
    """The tensors of a snapshot; of tied ones the first."""
    if isinstance(weights, StartWeights):
        return adapter_state(weights.model, str(weights.adapter))
    return {name: value.detach().contiguous() for name, value in weights.named_parameters()}


def save(folder: Path, references: Mapping[str, Weights], names: list[str]) -> None:
    """Each of the snapshots `names` as a file of its own."""
    for name in names:
        save_file(tensors_of(references[name]), file_of(folder, name))


def load(folder: Path, references: dict[str, Weights], names: list[str], model: nn.Module) -> None:
    """The snapshots as they were saved, bit for bit; InputError where one is of another model."""
    for name in names:
        saved = load_file(file_of(folder, name))
        references[name] = weights = renewed(references[name], model, name)
        if isinstance(weights, StartWeights):
            load_adapter_state(weights.model, saved, str(file_of(folder, name)), str(weights.adapter))
            continue
        mine = dict(weights.named_parameters())
        if mine.keys() != saved.keys():
            other = min(mine.keys() ^ saved.keys())
            raise InputError(f"{file_of(folder, name)} has other tensors than this model ('{other}'): it is not its")
        with torch.no_grad():
            for key, value in saved.items():
                mine[key].copy_(value)


def file_of(folder: Path, name: str) -> Path:
    """Where a snapshot lies."""
    return folder / f"snapshot-{name}.safetensors"


def own_passes(names: set[str]) -> list[str]:
    """The passes that are snapshots: all but the policy, the reference and the teacher, which others make."""
    return sorted(names - {"policy", "reference", TEACHER})
