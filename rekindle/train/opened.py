"""The model of a run at its start: loaded, with an adapter where one trains, and readable as it began all through."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.chat import Encode, check_system
from rekindle.tokens.loader import Loaded, adapter_of, load_model
from rekindle.tokens.lora import (
    ALL_LINEAR,
    TRAINED,
    StartWeights,
    Weights,
    adapt,
    adapted_layers,
    keep_start,
    need_peft,
)
from rekindle.tokens.tasks.base import Task
from rekindle.train.sections import Lora
from rekindle.train.settings import TASKS_OWN, RunConfig
from rekindle.train.snapshots import frozen


def start_model(config: RunConfig, task: Task) -> Loaded:
    """The model that `config` names, in train mode; with `lora.rank`, or from an adapter folder, only adapters train.

    InputError where the model, its template or the adapter cannot serve.
    """
    lora = config.lora
    if lora.rank:
        need_peft()
    loaded = load_model(
        config.model,
        task_name=task.name,
        device=config.device,
        dtype=config.dtype,
        system_prompt=config.system(task.system_prompt),
        chat_template=config.chat_template,
        thinking=config.thinking,
        quantize=lora.quantize,
    )
    check_own_system(config, loaded.encode)
    if loaded.adapter:
        _check_same(config.model, lora, loaded.model)
    elif lora.rank:
        adapted = adapt(loaded.model, lora.rank, lora.alpha, lora.targets, config.seed)
        loaded = replace(loaded, model=adapted)
    loaded.model.train()
    return loaded


def check_own_system(config: RunConfig, encode: Encode) -> None:
    """InputError where the user's own system prompt would be left out; the task's own is for chat models only."""
    check_system(config.model, None if config.system_prompt == TASKS_OWN else config.system_prompt, encode.chat)


def trains_adapter(config: RunConfig) -> bool:
    """Whether only adapters train: new ones, or those of the folder or hub id that the run starts from."""
    return bool(config.lora.rank) or adapter_of(config.model) is not None


def _check_same(spec: str, lora: Lora, model: Any) -> None:
    """A run that goes on with an adapter keeps its shape; the user may repeat it, but not ask for another."""
    there = model.peft_config[TRAINED]
    asked = {"rank": (lora.rank or there.r, there.r), "alpha": (lora.alpha or there.lora_alpha, there.lora_alpha)}
    for name, (wanted, own) in asked.items():
        if wanted != own:
            raise InputError(
                f"adapter '{spec}' has lora.{name}={own}, and the run asks for {wanted}: leave it out, or start from "
                "the merged model (rekindle export --merge)"
            )
    if tuple(lora.targets) != ALL_LINEAR and set(lora.targets) != set(there.target_modules):
        raise InputError(f"adapter '{spec}' has its own targets: leave lora.targets out")


def start_weights(loaded: Loaded) -> Weights:
    """What the model says now, for all of the run: inside the same model where adapters train, else a frozen copy."""
    if loaded.adapter:
        return keep_start(loaded.model)
    if adapted_layers(loaded.model):
        return StartWeights(loaded.model)
    return frozen(loaded.model)
