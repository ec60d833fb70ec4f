"""Checkpoints: a plain Hugging Face folder, plus `state/` with the optimiser in safetensors and the rest in JSON.

Of a run with an adapter, that folder is the adapter's, and `state/` has the adapter that the run began with.

A checkpoint is written beside its place, flushed and renamed, so that a killed run never leaves half of one; a manifest
tells one that was damaged later. It may stand inside a step, between two updates: then it holds the step's batch.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rekindle.core.opened import Opened
from rekindle.errors import InputError
from rekindle.tokens.loader import quiet
from rekindle.tokens.lora import (
    START,
    WEIGHTS,
    adapted_layers,
    adapter_state,
    load_adapter_state,
    save_adapter,
    save_merged,
)
from rekindle.train import manifest, snapshots
from rekindle.train.durable import make, partial_of, publish
from rekindle.train.inside import load_opened, save_opened
from rekindle.train.retention import name_of, note_best, prune
from rekindle.train.run import Run
from rekindle.train.shard import gathered, like

STATE = "state"


def save_checkpoint(run: Run, folder: Path, opened: Opened | None = None) -> Path:
    """Write a checkpoint behind the steps done so far; those that need not stay are removed (`retention`).

    opened: the step that has begun, where it stands between two updates. All ranks call it, for weights may lie in
    shares; the first writes what one rank would have written.
    """
    place = folder / name_of(run.step_index, None if opened is None else opened.done)
    leads = run.ranks.index == 0
    if run.copy is not None:
        run.copy.refresh()
    moments = gathered(optimizer_tensors(run).items(), leads)
    heads = gathered(run.policy.heads.state_dict().items(), leads)
    if not leads:
        return place
    make(folder)
    partial = partial_of(place)
    try:
        save_model(run, partial)
        (partial / STATE).mkdir()
        save_state(run, partial / STATE, moments, heads, opened)
        manifest.seal(partial, run.step_index)
        publish(partial, place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk has room again
        raise
    note_best(folder, run.watched.get("best"))
    prune(place, run.resolved.config.checkpoint, run.watched.get("best"))
    return place


def save_state(
    run: Run, folder: Path, moments: dict[str, Tensor], heads: dict[str, Tensor], opened: Opened | None
) -> None:
    """All that decides the future besides the model: optimiser, heads, frozen weights, what parts keep, memory."""
    save_file(moments, folder / "optimizer.safetensors")
    if heads:
        save_file(heads, folder / "heads.safetensors")
    if has_start(run.loaded.model):
        save_file(adapter_state(run.loaded.model, START), folder / "start.safetensors")
    if run.kept:
        save_file({n: t.contiguous() for n, t in run.kept.items()}, folder / "kept.safetensors")
    snapshots.save(folder, run.references, run.memory.get("snapshots", []))
    own = {"memory": run.memory, "watched": run.watched}
    state = {"step": run.step_index, **own, "record_hash": run.resolved.record_hash}
    if opened is not None:
        state["opened"] = save_opened(folder, opened, run)
    (folder / "run.json").write_text(json.dumps(state, indent=2) + "\n")


def save_model(run: Run, folder: Path, merged: bool = False) -> None:
    """Weights, configuration and tokenizer as transformers loads them; of a run with an adapter, as PEFT does.

    merged: the whole model with the adapter in its weights.
    """
    folder.mkdir(parents=True)
    model: Any = run.loaded.model if run.copy is None else run.copy.model
    with quiet():
        if merged:
            save_merged(model, folder)
        elif adapted_layers(model):
            save_adapter(model, folder)
        else:
            model.save_pretrained(folder)
        run.loaded.tokenizer.save_pretrained(folder)


def has_start(model: Any) -> bool:
    """Whether the model holds the adapter that its run began with, beside the one that trains."""
    return bool(adapted_layers(model)) and START in model.peft_config


def optimizer_tensors(run: Run) -> dict[str, Tensor]:
    """The optimiser's state by parameter name: `NAME.exp_avg`, `NAME.exp_avg_sq`, `NAME.step`."""
    named: dict[Tensor, str] = {p: name for name, p in run.trainable()}
    state = run.optimizer.state
    return {f"{named[p]}.{key}": value.contiguous() for p in state for key, value in state[p].items()}


def load_checkpoint(run: Run, place: Path) -> None:
    """Bring `run` to where it was: weights, optimiser, memory and step. InputError where the record is another one."""
    state: dict[str, Any] = json.loads((place / STATE / "run.json").read_text())
    if state["record_hash"] != run.resolved.record_hash:
        raise InputError(f"{place} was written by another method record; resume with the method and options of its run")
    load_weights(run.loaded.model, place)
    if has_start(run.loaded.model):
        file = place / STATE / "start.safetensors"
        load_adapter_state(run.loaded.model, load_file(file), str(file), START)
    tensors = load_file(place / STATE / "optimizer.safetensors")
    for name, parameter in run.trainable():
        mine = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.rpartition(".")[0] == name}
        if mine:
            # Fused AdamW reads its step count on the device too.
            run.optimizer.state[parameter] = {k: like(v, parameter) for k, v in mine.items()}
    run.step_index = int(state["step"])
    load_opened(place / STATE, state.get("opened"), run)
    run.memory, run.watched = dict(state["memory"]), dict(state["watched"])
    kept = place / STATE / "kept.safetensors"
    run.kept = load_file(kept) if kept.is_file() else {}
    snapshots.load(place / STATE, run.references, run.memory.get("snapshots", []), run.loaded.model)
    if run.policy.heads:
        saved, own = load_file(place / STATE / "heads.safetensors"), run.policy.heads.state_dict()
        run.policy.heads.load_state_dict({name: like(value, own[name]) for name, value in saved.items()})


def load_weights(model: torch.nn.Module, place: Path) -> None:
    """The weights in `place` into `model`, bit for bit; tied weights follow the tensor that was saved.

    Of a model with an adapter, the adapter's.
    """
    if adapted_layers(model):
        if not (place / WEIGHTS).is_file():
            raise InputError(f"{place} holds no adapter ({WEIGHTS}): it is not a checkpoint of this run")
        load_adapter_state(model, load_file(place / WEIGHTS), str(place))
        return
    saved: dict[str, Tensor] = {}
    for file in sorted(place.glob("model*.safetensors")):
        saved |= load_file(file)
    with torch.no_grad():
        own = dict(model.named_parameters()) | dict(model.named_buffers())
        missing = [name for name in own if name not in saved and name in dict(model.named_parameters())]
        if missing:
            raise InputError(f"{place} lacks the weights '{missing[0]}': it is not a checkpoint of this model")
        for name, value in saved.items():
            if name in own:
                own[name].copy_(like(value, own[name]))
